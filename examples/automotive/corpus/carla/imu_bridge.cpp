// SPDX-License-Identifier: Apache-2.0
/**
 * @file imu_bridge.cpp
 * @brief Scale, calibrate and pack the samples of a simulated IMU.
 */
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace carla_bridge {

/** One sample in the units of the CAN message: mm/s² and mrad/s. */
struct ImuSample {
    std::array<std::int16_t, 3> acceleration;
    std::array<std::int16_t, 3> rotation;
};

/** Running estimate of the gyroscope's bias while the vehicle stands. */
struct GyroBias {
    std::array<std::int32_t, 3> sum;
    std::uint16_t samples;
};

/**
 * @brief Convert a simulated value to a scaled integer.
 * @param value Value in the simulator's unit.
 * @param scale Steps per unit.
 * @return Saturated integer, 0 for a value that is not a number.
 */
std::int16_t to_fixed(double value, double scale) {
    const double scaled = std::round(value * scale);
    std::int16_t fixed = 0;

    if (scaled >= static_cast<double>(std::numeric_limits<std::int16_t>::max())) {
        fixed = std::numeric_limits<std::int16_t>::max();
    } else if (scaled <= static_cast<double>(std::numeric_limits<std::int16_t>::min())) {
        fixed = std::numeric_limits<std::int16_t>::min();
    } else if (!std::isnan(scaled)) {
        fixed = static_cast<std::int16_t>(scaled);
    } else {
        fixed = 0;
    }
    return fixed;
}

/**
 * @brief Take a sample of the standing vehicle into the bias.
 * @param bias Estimate to extend.
 * @param sample Sample of the gyroscope.
 * @return True once 100 samples were taken.
 */
bool learn_bias(GyroBias& bias, const ImuSample& sample) {
    static constexpr std::uint16_t kSamples = 100U;

    if (bias.samples < kSamples) {
        for (std::size_t axis = 0U; axis < 3U; ++axis) {
            bias.sum[axis] += sample.rotation[axis];
        }
        bias.samples = static_cast<std::uint16_t>(bias.samples + 1U);
    }
    return bias.samples == kSamples;
}

/**
 * @brief Remove the bias from a sample.
 * @param bias Estimate of the bias.
 * @param sample Sample to correct.
 * @return Corrected sample.
 */
ImuSample remove_bias(const GyroBias& bias, const ImuSample& sample) {
    ImuSample corrected = sample;

    if (bias.samples > 0U) {
        for (std::size_t axis = 0U; axis < 3U; ++axis) {
            const std::int32_t mean = bias.sum[axis] / static_cast<std::int32_t>(bias.samples);
            const std::int32_t rate = sample.rotation[axis] - mean;
            corrected.rotation[axis] = to_fixed(static_cast<double>(rate), 1.0);
        }
    }
    return corrected;
}

/**
 * @brief Detect a crash from the acceleration.
 * @param sample Sample to check.
 * @param limit Largest acceleration of normal driving in mm/s².
 * @return True if any axis is over the limit.
 */
bool crash_detected(const ImuSample& sample, std::int16_t limit) {
    bool crash = false;

    for (const std::int16_t value : sample.acceleration) {
        const std::int32_t wide = value;
        const std::int32_t size = (wide < 0) ? -wide : wide;
        if (size > limit) {
            crash = true;
        }
    }
    return crash;
}

}  // namespace carla_bridge
