/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file schedule_check.c
 * @brief Plausibility checks of a gate schedule before it is activated.
 */
#include "gate_control_list.h"

#include <stddef.h>

/** What is wrong with a schedule. */
typedef enum {
    SCHEDULE_OK = 0,
    SCHEDULE_EMPTY,
    SCHEDULE_CYCLE_MISMATCH,
    SCHEDULE_GATE_NEVER_OPEN
} schedule_result_t;

/**
 * @brief Collect every gate that opens at least once in a cycle.
 * @param gcl Schedule to look at.
 * @return Mask of the gates that open.
 */
uint8_t schedule_used_gates(const gcl_t *gcl) {
    uint8_t used = 0U;

    if (gcl != NULL) {
        for (uint8_t i = 0U; i < gcl->length; i++) {
            used = (uint8_t)(used | gcl->entries[i].gate_mask);
        }
    }
    return used;
}

/**
 * @brief Measure how long one gate is open in a cycle.
 * @param gcl Schedule to look at.
 * @param gate Gate number, 0 to 7.
 * @return Open time in nanoseconds.
 */
uint64_t schedule_open_time(const gcl_t *gcl, uint8_t gate) {
    uint64_t open_time = 0U;

    if ((gcl != NULL) && (gate < GCL_GATE_COUNT)) {
        const uint8_t bit = (uint8_t)(1U << gate);
        for (uint8_t i = 0U; i < gcl->length; i++) {
            if ((gcl->entries[i].gate_mask & bit) != 0U) {
                open_time += gcl->entries[i].interval_ns;
            }
        }
    }
    return open_time;
}

/**
 * @brief Check a schedule against its configured cycle and the gates it must serve.
 * @param gcl Schedule to check.
 * @param cycle_ns Configured cycle time.
 * @param required_gates Gates that have to open at least once.
 * @return SCHEDULE_OK, or the first thing that is wrong.
 */
schedule_result_t schedule_check(const gcl_t *gcl, uint64_t cycle_ns, uint8_t required_gates) {
    schedule_result_t result = SCHEDULE_OK;
    uint64_t total = 0U;

    if ((gcl == NULL) || (gcl->length == 0U)) {
        result = SCHEDULE_EMPTY;
    } else {
        for (uint8_t i = 0U; i < gcl->length; i++) {
            total += gcl->entries[i].interval_ns;
        }
        if (total != cycle_ns) {
            result = SCHEDULE_CYCLE_MISMATCH;
        } else if ((schedule_used_gates(gcl) & required_gates) != required_gates) {
            result = SCHEDULE_GATE_NEVER_OPEN;
        } else {
            result = SCHEDULE_OK;
        }
    }
    return result;
}

/**
 * @brief Check that two gates never overlap in a schedule.
 * @param gcl Schedule to check.
 * @param first_gate One gate.
 * @param second_gate The other gate.
 * @return True if no step opens both.
 */
bool schedule_gates_disjoint(const gcl_t *gcl, uint8_t first_gate, uint8_t second_gate) {
    bool disjoint = (gcl != NULL) && (first_gate < GCL_GATE_COUNT) && (second_gate < GCL_GATE_COUNT);

    if (disjoint) {
        const uint8_t both = (uint8_t)((1U << first_gate) | (1U << second_gate));
        for (uint8_t i = 0U; i < gcl->length; i++) {
            if ((gcl->entries[i].gate_mask & both) == both) {
                disjoint = false;
            }
        }
    }
    return disjoint;
}
