// SPDX-License-Identifier: Apache-2.0
/**
 * @file sensor_sync.cpp
 * @brief Bring the measurements of one simulator tick together.
 */
#include <array>
#include <cstddef>
#include <cstdint>

#include "sensor_frame.h"

namespace carla_bridge {

static constexpr std::size_t kSensorTypes = 6U;

/** The measurements that have come in for one tick. */
class TickCollector {
public:
    /**
     * @brief Start to collect a tick.
     * @param frame_number Tick of the simulator.
     * @param expected_mask One bit per sensor type that has to come.
     */
    void start(std::uint32_t frame_number, std::uint8_t expected_mask) {
        frame_number_ = frame_number;
        expected_mask_ = expected_mask;
        received_mask_ = 0U;
        strays_ = 0U;
        first_us_.fill(0U);
    }

    /**
     * @brief Take a measurement.
     * @param frame Header of the measurement.
     * @return True if it belongs to this tick.
     */
    bool take(const sensor_frame_t& frame) {
        const bool known = (frame.sensor_type < kSensorTypes);
        const bool current = known && (frame.frame_number == frame_number_);

        if (current) {
            const std::uint32_t bit = 1UL << frame.sensor_type;
            received_mask_ = static_cast<std::uint8_t>(received_mask_ | bit);
            first_us_[frame.sensor_type] = frame.timestamp_us;
        } else {
            ++strays_;
        }
        return current;
    }

    /**
     * @brief Tell whether every expected sensor has answered.
     * @return True if the tick is complete.
     */
    bool complete() const {
        const std::uint32_t answered = static_cast<std::uint32_t>(expected_mask_) & received_mask_;
        bool all_here = false;

        if (expected_mask_ != 0U) {
            all_here = (answered == expected_mask_);
        }
        return all_here;
    }

    /**
     * @brief Count the measurements that belong to another tick or to no known sensor.
     * @return Number of strays since the start of the tick.
     */
    std::uint32_t strays() const { return strays_; }

    /**
     * @brief Measure how far apart the measurements of a tick are.
     * @return Largest time minus smallest, 0 with fewer than two sensors.
     */
    std::uint64_t spread_us() const {
        std::uint64_t earliest = UINT64_MAX;
        std::uint64_t latest = 0U;

        for (std::size_t type = 0U; type < kSensorTypes; ++type) {
            if ((received_mask_ & (1UL << type)) != 0U) {
                earliest = (first_us_[type] < earliest) ? first_us_[type] : earliest;
                latest = (first_us_[type] > latest) ? first_us_[type] : latest;
            }
        }
        return (latest > earliest) ? (latest - earliest) : 0U;
    }

private:
    std::array<std::uint64_t, kSensorTypes> first_us_{};
    std::uint32_t frame_number_ = 0U;
    std::uint32_t strays_ = 0U;
    std::uint8_t expected_mask_ = 0U;
    std::uint8_t received_mask_ = 0U;
};

/**
 * @brief Compute the real time that a simulated tick should take.
 * @param simulated_us Simulated length of a tick.
 * @param speed_percent Speed of the simulation, 100 for real time.
 * @return Microseconds to wait, 0 for a simulation without a limit.
 */
std::uint32_t tick_pace(std::uint32_t simulated_us, std::uint16_t speed_percent) {
    std::uint32_t pace = 0U;

    if (speed_percent > 0U) {
        const std::uint64_t scaled = static_cast<std::uint64_t>(simulated_us) * 100U;
        const std::uint64_t result = scaled / speed_percent;
        pace = (result < UINT32_MAX) ? static_cast<std::uint32_t>(result) : UINT32_MAX;
    }
    return pace;
}

}  // namespace carla_bridge
