/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gate_control_list.h
 * @brief Gate control list of one egress port (IEEE 802.1Qbv).
 */
#ifndef GATE_CONTROL_LIST_H
#define GATE_CONTROL_LIST_H

#include <stdbool.h>
#include <stdint.h>

#define GCL_MAX_ENTRIES 16U
#define GCL_GATE_COUNT 8U

/** One step of the schedule: which gates are open, and for how long. */
typedef struct {
    uint8_t gate_mask;     /**< Bit n is the gate of traffic class n. */
    uint32_t interval_ns;  /**< Duration of the step. */
} gcl_entry_t;

/** The whole schedule, repeated from base_time_ns on. */
typedef struct {
    gcl_entry_t entries[GCL_MAX_ENTRIES];
    uint8_t length;
    uint64_t base_time_ns;
} gcl_t;

void gcl_clear(gcl_t *gcl, uint64_t base_time_ns);
bool gcl_append(gcl_t *gcl, uint8_t gate_mask, uint32_t interval_ns);
uint64_t gcl_total_time(const gcl_t *gcl);
uint8_t gcl_mask_at(const gcl_t *gcl, uint64_t timestamp_ns);

#endif
