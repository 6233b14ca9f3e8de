/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file schedule_change.c
 * @brief When a new gate schedule takes over from the running one.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** State of a pending configuration change. */
typedef struct {
    uint64_t change_time_ns;
    uint32_t new_cycle_ns;
    bool pending;
    uint16_t errors;
} schedule_change_t;

/**
 * @brief Move a base time forward by whole cycles until it is not in the past.
 * @param base_time Wanted start of the schedule.
 * @param timestamp Current time.
 * @param cycle_time Length of a cycle.
 * @return First cycle start at or after the timestamp.
 */
uint64_t schedule_next_start(uint64_t base_time, uint64_t timestamp, uint32_t cycle_time) {
    uint64_t start = base_time;

    if ((base_time < timestamp) && (cycle_time > 0U)) {
        const uint64_t missed = (timestamp - base_time) + (cycle_time - 1U);
        start = base_time + ((missed / cycle_time) * cycle_time);
    }
    return start;
}

/**
 * @brief Request a new schedule.
 * @param change State of the change.
 * @param base_time Wanted start of the new schedule.
 * @param cycle_time Cycle of the new schedule.
 * @param timestamp Current time.
 * @return True if the request was taken.
 */
bool schedule_change_request(schedule_change_t *change, uint64_t base_time, uint32_t cycle_time, uint64_t timestamp) {
    bool taken = false;

    if (change != NULL) {
        if (cycle_time == 0U) {
            change->errors++;
        } else {
            change->change_time_ns = schedule_next_start(base_time, timestamp, cycle_time);
            change->new_cycle_ns = cycle_time;
            change->pending = true;
            taken = true;
        }
    }
    return taken;
}

/**
 * @brief Decide whether the pending schedule becomes active now.
 * @param change State of the change.
 * @param timestamp Current time.
 * @return True once, when the change time is reached.
 */
bool schedule_change_due(schedule_change_t *change, uint64_t timestamp) {
    bool due = false;

    if ((change != NULL) && change->pending && (timestamp >= change->change_time_ns)) {
        change->pending = false;
        due = true;
    }
    return due;
}

/**
 * @brief Stretch the last cycle of the old schedule rather than start a very short one.
 * @param remaining_time Time left until the change.
 * @param cycle_time Cycle of the old schedule.
 * @param extension_time Allowed extension of a cycle.
 * @return Length of the next cycle.
 */
uint32_t schedule_extend_cycle(uint64_t remaining_time, uint32_t cycle_time, uint32_t extension_time) {
    const uint64_t limit = (uint64_t)cycle_time + extension_time;
    uint32_t length = cycle_time;

    if ((remaining_time > cycle_time) && (remaining_time <= limit)) {
        length = (uint32_t)remaining_time;
    } else if (remaining_time < cycle_time) {
        length = (uint32_t)remaining_time;
    } else {
        length = cycle_time;
    }
    return length;
}
