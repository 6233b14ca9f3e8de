// SPDX-License-Identifier: Apache-2.0
/**
 * @file vehicle_control.cpp
 * @brief Turn commands from the vehicle network into controls of the simulator.
 */
#include <algorithm>
#include <cstdint>

namespace carla_bridge {

/** Controls as the simulator takes them. */
struct VehicleControl {
    float throttle;   // 0 to 1
    float steer;      // -1 to 1
    float brake;      // 0 to 1
    bool hand_brake;
    bool reverse;
};

/** Command as it comes over the network. */
struct ControlCommand {
    std::int16_t acceleration_mm_s2;
    std::int16_t steer_mrad;
    std::uint8_t gear;  // 0 parked, 1 reverse, 2 neutral, 3 drive
};

static constexpr float kMaxAcceleration = 3000.0F;
static constexpr float kMaxDeceleration = 9000.0F;
static constexpr float kMaxSteer = 1221.0F;

/**
 * @brief Translate a command into controls.
 * @param command Command from the network.
 * @return Controls within the limits of the simulator.
 */
VehicleControl to_control(const ControlCommand& command) {
    const float acceleration = static_cast<float>(command.acceleration_mm_s2);
    VehicleControl control{0.0F, 0.0F, 0.0F, false, false};

    if (acceleration >= 0.0F) {
        control.throttle = std::min(acceleration / kMaxAcceleration, 1.0F);
    } else {
        control.brake = std::min(-acceleration / kMaxDeceleration, 1.0F);
    }
    control.steer = std::clamp(static_cast<float>(command.steer_mrad) / kMaxSteer, -1.0F, 1.0F);
    control.hand_brake = (command.gear == 0U);
    control.reverse = (command.gear == 1U);
    return control;
}

/**
 * @brief Limit how fast a control may change in one tick.
 * @param current Value of the tick before.
 * @param wanted Value that is asked for.
 * @param step Largest change.
 * @return Value for this tick.
 */
float limit_change(float current, float wanted, float step) {
    const float change = wanted - current;
    float limited = wanted;

    if (change > step) {
        limited = current + step;
    } else if (change < -step) {
        limited = current - step;
    } else {
        limited = wanted;
    }
    return limited;
}

/**
 * @brief Choose safe controls when commands have stopped.
 * @param last Controls of the last command.
 * @param silent_ms Time since that command.
 * @param timeout_ms Time after which the vehicle has to stop.
 * @return The last controls, or full braking straight ahead.
 */
VehicleControl safe_control(const VehicleControl& last, std::uint32_t silent_ms, std::uint32_t timeout_ms) {
    VehicleControl control = last;

    if (silent_ms >= timeout_ms) {
        control.throttle = 0.0F;
        control.steer = 0.0F;
        control.brake = 1.0F;
        control.hand_brake = false;
    }
    return control;
}

}  // namespace carla_bridge
