/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gate_control_list.c
 * @brief Build a gate control list and look gates up in it.
 */
#include "gate_control_list.h"

#include <stddef.h>

static const uint8_t ALL_GATES_OPEN = 0xFFU;

/**
 * @brief Empty a gate control list.
 * @param gcl List to empty.
 * @param base_time_ns Start of the first cycle.
 */
void gcl_clear(gcl_t *gcl, uint64_t base_time_ns) {
    if (gcl != NULL) {
        for (uint8_t i = 0U; i < GCL_MAX_ENTRIES; i++) {
            gcl->entries[i].gate_mask = 0U;
            gcl->entries[i].interval_ns = 0U;
        }
        gcl->length = 0U;
        gcl->base_time_ns = base_time_ns;
    }
}

/**
 * @brief Append one step to a gate control list.
 * @param gcl List to extend.
 * @param gate_mask Gates that are open in this step.
 * @param interval_ns Duration of the step, not 0.
 * @return True if there was room and the duration was valid.
 */
bool gcl_append(gcl_t *gcl, uint8_t gate_mask, uint32_t interval_ns) {
    bool appended = false;

    if ((gcl != NULL) && (gcl->length < GCL_MAX_ENTRIES) && (interval_ns > 0U)) {
        gcl->entries[gcl->length].gate_mask = gate_mask;
        gcl->entries[gcl->length].interval_ns = interval_ns;
        gcl->length++;
        appended = true;
    }
    return appended;
}

/**
 * @brief Sum the durations of all steps.
 * @param gcl List to measure.
 * @return Cycle time in nanoseconds, 0 for an empty list.
 */
uint64_t gcl_total_time(const gcl_t *gcl) {
    uint64_t total = 0U;

    if (gcl != NULL) {
        for (uint8_t i = 0U; i < gcl->length; i++) {
            total += gcl->entries[i].interval_ns;
        }
    }
    return total;
}

/**
 * @brief Find the gates that are open at a moment.
 * @param gcl Schedule of the port.
 * @param timestamp_ns Moment in PTP time.
 * @return Gate mask; all gates before the base time or without a schedule.
 */
uint8_t gcl_mask_at(const gcl_t *gcl, uint64_t timestamp_ns) {
    const uint64_t cycle = gcl_total_time(gcl);
    uint8_t mask = ALL_GATES_OPEN;

    if ((cycle > 0U) && (timestamp_ns >= gcl->base_time_ns)) {
        const uint64_t phase = (timestamp_ns - gcl->base_time_ns) % cycle;
        uint64_t end = 0U;
        for (uint8_t i = 0U; i < gcl->length; i++) {
            end += gcl->entries[i].interval_ns;
            if (phase < end) {
                mask = gcl->entries[i].gate_mask;
                break;
            }
        }
    }
    return mask;
}
