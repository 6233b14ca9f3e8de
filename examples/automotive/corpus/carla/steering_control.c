/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file steering_control.c
 * @brief Angles, rates and limits of the steering.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STEERING_RATIO 15
#define STEERING_POINTS 5U

/** Largest wheel angle in milliradians at each speed in km/h. */
static const uint16_t LIMIT_SPEED[STEERING_POINTS] = {0U, 30U, 60U, 100U, 160U};
static const int16_t LIMIT_ANGLE[STEERING_POINTS] = {610, 400, 180, 80, 40};

/**
 * @brief Find the largest wheel angle for a speed.
 * @param speed_kmh Speed of the vehicle.
 * @return Angle in milliradians, interpolated between the points of the table.
 */
int16_t steering_limit(uint16_t speed_kmh) {
    int16_t limit = LIMIT_ANGLE[STEERING_POINTS - 1U];

    for (uint8_t i = 1U; i < STEERING_POINTS; i++) {
        if (speed_kmh < LIMIT_SPEED[i]) {
            const int32_t width = (int32_t)LIMIT_SPEED[i] - LIMIT_SPEED[i - 1U];
            const int32_t drop = (int32_t)LIMIT_ANGLE[i] - LIMIT_ANGLE[i - 1U];
            const int32_t along = (int32_t)speed_kmh - LIMIT_SPEED[i - 1U];
            limit = (int16_t)(LIMIT_ANGLE[i - 1U] + ((drop * along) / width));
            break;
        }
    }
    return limit;
}

/**
 * @brief Convert the angle of the steering wheel to the angle of the road wheels.
 * @param wheel_mrad Angle of the steering wheel.
 * @param speed_kmh Speed of the vehicle.
 * @return Angle of the road wheels in milliradians, within the limit of the speed.
 */
int16_t steering_road_angle(int16_t wheel_mrad, uint16_t speed_kmh) {
    const int16_t limit = steering_limit(speed_kmh);
    int16_t angle = (int16_t)(wheel_mrad / STEERING_RATIO);

    if (angle > limit) {
        angle = limit;
    }
    if (angle < -limit) {
        angle = (int16_t)-limit;
    }
    return angle;
}

/**
 * @brief Check two steering sensors against each other.
 * @param first_mrad Angle of the first sensor.
 * @param second_mrad Angle of the second sensor.
 * @param tolerance_mrad Difference that is tolerated.
 * @param angle_mrad Mean of both sensors.
 * @return True if the sensors agree.
 */
bool steering_sensors_agree(int16_t first_mrad, int16_t second_mrad, uint16_t tolerance_mrad, int16_t *angle_mrad) {
    const int32_t difference = (int32_t)first_mrad - second_mrad;
    bool agree = false;

    if (angle_mrad != NULL) {
        agree = (difference <= (int32_t)tolerance_mrad) && (difference >= -(int32_t)tolerance_mrad);
        *angle_mrad = (int16_t)(((int32_t)first_mrad + second_mrad) / 2);
    }
    return agree;
}
