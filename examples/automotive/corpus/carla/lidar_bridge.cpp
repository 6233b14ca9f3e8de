// SPDX-License-Identifier: Apache-2.0
/**
 * @file lidar_bridge.cpp
 * @brief Filter and pack the point cloud of a simulated lidar.
 */
#include <array>
#include <cstddef>
#include <cstdint>

namespace carla_bridge {

/** One echo in the frame of the sensor, in millimetres. */
struct LidarPoint {
    std::int32_t x;
    std::int32_t y;
    std::int32_t z;
    std::uint8_t intensity;
};

/**
 * @brief Compute the squared distance of a point from the sensor.
 * @param point Point of the cloud.
 * @return Squared distance in square millimetres.
 */
std::uint64_t squared_range(const LidarPoint& point) {
    const std::int64_t x = point.x;
    const std::int64_t y = point.y;
    const std::int64_t z = point.z;
    const std::int64_t sum = (x * x) + (y * y) + (z * z);

    return static_cast<std::uint64_t>(sum);
}

/**
 * @brief Drop points that are too near, too far or on the ground, in place.
 * @param points Points of one turn.
 * @param count Number of points.
 * @param near_mm Shortest distance to keep.
 * @param far_mm Longest distance to keep.
 * @param ground_z Height of the ground below the sensor.
 * @return Number of points that are kept.
 */
std::size_t filter_points(LidarPoint* points, std::size_t count, std::uint32_t near_mm, std::uint32_t far_mm,
                          std::int32_t ground_z) {
    const std::uint64_t near_squared = static_cast<std::uint64_t>(near_mm) * near_mm;
    const std::uint64_t far_squared = static_cast<std::uint64_t>(far_mm) * far_mm;
    std::size_t kept = 0U;

    if (points != nullptr) {
        for (std::size_t i = 0U; i < count; ++i) {
            const std::uint64_t range = squared_range(points[i]);
            if ((range >= near_squared) && (range <= far_squared) && (points[i].z > ground_z)) {
                points[kept] = points[i];
                ++kept;
            }
        }
    }
    return kept;
}

/**
 * @brief Count the points of each sector around the vehicle.
 * @param points Points of one turn.
 * @param count Number of points.
 * @return Front left, front right, rear left and rear right.
 */
std::array<std::uint32_t, 4> count_sectors(const LidarPoint* points, std::size_t count) {
    std::array<std::uint32_t, 4> sectors{};

    if (points != nullptr) {
        for (std::size_t i = 0U; i < count; ++i) {
            const std::size_t rear = (points[i].x < 0) ? 2U : 0U;
            const std::size_t right = (points[i].y > 0) ? 1U : 0U;
            ++sectors[rear + right];
        }
    }
    return sectors;
}

/**
 * @brief Find the nearest point straight ahead.
 * @param points Points of one turn.
 * @param count Number of points.
 * @param half_width_mm Half of the width of the corridor.
 * @return Distance along x in millimetres, 0 if the corridor is free.
 */
std::uint32_t nearest_ahead(const LidarPoint* points, std::size_t count, std::int32_t half_width_mm) {
    std::uint32_t nearest = 0U;

    for (std::size_t i = 0U; (points != nullptr) && (i < count); ++i) {
        const bool inside = (points[i].y >= -half_width_mm) && (points[i].y <= half_width_mm);
        if (inside && (points[i].x > 0)) {
            const std::uint32_t distance = static_cast<std::uint32_t>(points[i].x);
            if ((nearest == 0U) || (distance < nearest)) {
                nearest = distance;
            }
        }
    }
    return nearest;
}

}  // namespace carla_bridge
