/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file wheel_odometry.c
 * @brief Speed, distance and slip from the pulses of the wheels.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WHEEL_COUNT 4U

/** Pulse counters of the four wheels. */
typedef struct {
    uint16_t last_pulses[WHEEL_COUNT];
    uint64_t distance_um;
    uint32_t micrometres_per_pulse;
} odometry_t;

/**
 * @brief Compute the pulses since the last reading, across the wrap of the counter.
 * @param last Counter at the last reading.
 * @param now Counter now.
 * @return Number of pulses.
 */
uint16_t odometry_pulses(uint16_t last, uint16_t now) {
    uint32_t pulses = 0U;

    if (now >= last) {
        pulses = (uint32_t)now - last;
    } else {
        pulses = (65536U - last) + now;
    }
    return (uint16_t)pulses;
}

/**
 * @brief Take new counters into the distance.
 * @param odometry State of the vehicle.
 * @param pulses Counters of the four wheels.
 * @return Distance since the last call in micrometres, the mean of all wheels.
 */
uint64_t odometry_update(odometry_t *odometry, const uint16_t pulses[WHEEL_COUNT]) {
    uint64_t moved = 0U;

    if ((odometry != NULL) && (pulses != NULL)) {
        uint64_t sum = 0U;
        for (uint8_t wheel = 0U; wheel < WHEEL_COUNT; wheel++) {
            sum += odometry_pulses(odometry->last_pulses[wheel], pulses[wheel]);
            odometry->last_pulses[wheel] = pulses[wheel];
        }
        moved = (sum * odometry->micrometres_per_pulse) / WHEEL_COUNT;
        odometry->distance_um += moved;
    }
    return moved;
}

/**
 * @brief Compute the speed over an interval.
 * @param moved_um Distance in micrometres.
 * @param elapsed_ms Length of the interval.
 * @return Speed in millimetres per second, 0 for an empty interval.
 */
uint32_t odometry_speed(uint64_t moved_um, uint32_t elapsed_ms) {
    uint64_t speed = 0U;

    if (elapsed_ms > 0U) {
        speed = moved_um / elapsed_ms;
    }
    if (speed > UINT32_MAX) {
        speed = UINT32_MAX;
    }
    return (uint32_t)speed;
}

/**
 * @brief Compute the slip of a wheel while the vehicle brakes.
 * @param wheel_mm_s Speed of the wheel.
 * @param vehicle_mm_s Speed of the vehicle.
 * @return Slip in per mille: 0 rolls freely, 1000 is locked.
 */
uint16_t odometry_slip(uint32_t wheel_mm_s, uint32_t vehicle_mm_s) {
    uint16_t slip = 0U;

    if ((vehicle_mm_s > 0U) && (wheel_mm_s < vehicle_mm_s)) {
        const uint64_t lost = (uint64_t)vehicle_mm_s - wheel_mm_s;
        slip = (uint16_t)((lost * 1000U) / vehicle_mm_s);
    }
    return slip;
}
