/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ptp_servo.c
 * @brief Clock servo of a gPTP end station: offset in, frequency correction out.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SERVO_STEP_LIMIT_NS 100000
#define SERVO_MAX_PPB 200000
#define SERVO_LOCK_COUNT 8U

/** Proportional-integral controller of the local clock. */
typedef struct {
    int64_t integral;
    int32_t gain_p_permille;
    int32_t gain_i_permille;
    uint8_t locked_count;
} ptp_servo_t;

static int32_t limit_ppb(int64_t ppb) {
    int64_t limited = ppb;

    if (limited > SERVO_MAX_PPB) {
        limited = SERVO_MAX_PPB;
    }
    if (limited < -SERVO_MAX_PPB) {
        limited = -SERVO_MAX_PPB;
    }
    return (int32_t)limited;
}

/**
 * @brief Compute the offset of the local clock from the grandmaster.
 * @param receive_time Local time at which Sync came in.
 * @param origin_time Grandmaster time at which Sync went out.
 * @param path_delay Mean delay of the link.
 * @return Offset in nanoseconds, positive if the local clock is ahead.
 */
int64_t ptp_clock_offset(uint64_t receive_time, uint64_t origin_time, uint32_t path_delay) {
    const uint64_t expected = origin_time + path_delay;
    int64_t offset = 0;

    if (receive_time >= expected) {
        offset = (int64_t)(receive_time - expected);
    } else {
        offset = -(int64_t)(expected - receive_time);
    }
    return offset;
}

/**
 * @brief Decide whether the clock must be stepped rather than slewed.
 * @param offset Offset in nanoseconds.
 * @return True if slewing would take too long.
 */
bool ptp_servo_must_step(int64_t offset) {
    const bool far_ahead = (offset > SERVO_STEP_LIMIT_NS);
    const bool far_behind = (offset < -SERVO_STEP_LIMIT_NS);
    bool step = false;

    if (far_ahead || far_behind) {
        step = true;
    }
    return step;
}

/**
 * @brief Compute the next frequency correction.
 * @param servo Controller state.
 * @param offset Offset in nanoseconds, within the step limit.
 * @return Correction in parts per billion.
 */
int32_t ptp_servo_sample(ptp_servo_t *servo, int64_t offset) {
    int32_t correction = 0;

    if ((servo != NULL) && (!ptp_servo_must_step(offset))) {
        const int64_t proportional = offset * servo->gain_p_permille;
        servo->integral += offset * servo->gain_i_permille;
        servo->integral = (int64_t)limit_ppb(servo->integral / 1000) * 1000;
        correction = -limit_ppb((proportional + servo->integral) / 1000);
    }
    return correction;
}

/**
 * @brief Track whether the clock is locked.
 * @param servo Controller state.
 * @param offset Latest offset in nanoseconds.
 * @param limit Largest offset of a locked clock.
 * @return True after eight good offsets in a row.
 */
bool ptp_servo_locked(ptp_servo_t *servo, int64_t offset, int64_t limit) {
    bool locked = false;

    if (servo != NULL) {
        if ((offset > limit) || (offset < -limit)) {
            servo->locked_count = 0U;
        } else if (servo->locked_count < SERVO_LOCK_COUNT) {
            servo->locked_count++;
        } else {
            servo->locked_count = SERVO_LOCK_COUNT;
        }
        locked = (servo->locked_count == SERVO_LOCK_COUNT);
    }
    return locked;
}
