// SPDX-License-Identifier: Apache-2.0
/**
 * @file gnss_bridge.cpp
 * @brief Positions of a simulated GNSS receiver as fixed-point messages.
 */
#include <cmath>
#include <cstdint>

namespace carla_bridge {

/** Position in 10⁻⁷ degrees and millimetres. */
struct GnssFix {
    std::int32_t latitude;
    std::int32_t longitude;
    std::int32_t altitude_mm;
    bool valid;
};

static constexpr double kScale = 1.0e7;
static constexpr double kMillimetresPerDegree = 111319490.8;
static constexpr double kPi = 3.14159265358979323846;

/**
 * @brief Make a fix from the simulator's position.
 * @param latitude Degrees, north is positive.
 * @param longitude Degrees, east is positive.
 * @param altitude Metres above the ellipsoid.
 * @return Fix, not valid if the position is out of range.
 */
GnssFix make_fix(double latitude, double longitude, double altitude) {
    GnssFix fix{0, 0, 0, false};

    if ((std::fabs(latitude) <= 90.0) && (std::fabs(longitude) <= 180.0) && (std::fabs(altitude) <= 20000.0)) {
        fix.latitude = static_cast<std::int32_t>(std::lround(latitude * kScale));
        fix.longitude = static_cast<std::int32_t>(std::lround(longitude * kScale));
        fix.altitude_mm = static_cast<std::int32_t>(std::lround(altitude * 1000.0));
        fix.valid = true;
    }
    return fix;
}

/**
 * @brief Compute the distance of two near positions on a flat earth.
 * @param from One fix.
 * @param to The other fix.
 * @return Distance in millimetres, 0 if a fix is not valid.
 */
std::uint32_t distance_mm(const GnssFix& from, const GnssFix& to) {
    double distance = 0.0;

    if (from.valid && to.valid) {
        const double latitude = (static_cast<double>(from.latitude) / kScale) * (kPi / 180.0);
        const double north_degrees = (static_cast<double>(to.latitude) - from.latitude) / kScale;
        const double east_degrees = (static_cast<double>(to.longitude) - from.longitude) / kScale;
        const double north = north_degrees * kMillimetresPerDegree;
        const double east = east_degrees * kMillimetresPerDegree * std::cos(latitude);
        distance = std::sqrt((north * north) + (east * east));
    }
    return (distance < 4294967295.0) ? static_cast<std::uint32_t>(distance) : 4294967295U;
}

/**
 * @brief Reject a fix that no vehicle could have reached.
 * @param last Fix before.
 * @param next New fix.
 * @param elapsed_ms Time between them.
 * @param max_speed_mm_s Highest speed of the vehicle.
 * @return True if the new fix is believable.
 */
bool plausible_fix(const GnssFix& last, const GnssFix& next, std::uint32_t elapsed_ms, std::uint32_t max_speed_mm_s) {
    bool plausible = next.valid;

    if (last.valid && next.valid) {
        const std::uint64_t reach = (static_cast<std::uint64_t>(max_speed_mm_s) * elapsed_ms) / 1000U;
        plausible = distance_mm(last, next) <= reach;
    }
    return plausible;
}

}  // namespace carla_bridge
