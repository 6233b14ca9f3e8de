/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stream_filter.c
 * @brief Stream filters and stream gates of an ingress port (IEEE 802.1Qci).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILTER_ANY_PRIORITY 0xFFU
#define FILTER_NO_MATCH 0xFFU

/** One filter: which frames it is for, and how long they may be. */
typedef struct {
    uint16_t vlan;
    uint8_t priority;
    uint16_t max_frame_bytes;
    bool blocked;
    uint32_t passed;
    uint32_t dropped;
} stream_filter_t;

static bool filter_matches(const stream_filter_t *filter, uint16_t vlan, uint8_t priority) {
    const bool any_priority = (filter->priority == FILTER_ANY_PRIORITY);
    bool matches = false;

    if (filter->vlan == vlan) {
        matches = any_priority || (filter->priority == priority);
    }
    return matches;
}

/**
 * @brief Find the first filter for a frame.
 * @param filters Filters in the order of their use.
 * @param filter_count Number of filters, below 255.
 * @param vlan VLAN of the frame.
 * @param priority Priority of the frame.
 * @return Index of the filter, FILTER_NO_MATCH if there is none.
 */
uint8_t filter_find(const stream_filter_t *filters, uint8_t filter_count, uint16_t vlan, uint8_t priority) {
    uint8_t found = FILTER_NO_MATCH;

    if (filters != NULL) {
        for (uint8_t i = 0U; (i < filter_count) && (found == FILTER_NO_MATCH); i++) {
            if (filter_matches(&filters[i], vlan, priority)) {
                found = i;
            }
        }
    }
    return found;
}

/**
 * @brief Pass or drop a frame and count it.
 * @param filter Filter of the frame.
 * @param frame_bytes Length of the frame.
 * @param gate_open State of the stream gate.
 * @return True if the frame passes.
 */
bool filter_pass(stream_filter_t *filter, uint16_t frame_bytes, bool gate_open) {
    bool pass = false;

    if (filter != NULL) {
        pass = gate_open && (!filter->blocked) && (frame_bytes <= filter->max_frame_bytes);
        if (pass) {
            filter->passed++;
        } else {
            filter->dropped++;
        }
    }
    return pass;
}

/**
 * @brief Block a stream for good when one frame was too long.
 * @param filter Filter of the stream.
 * @param frame_bytes Length of the frame.
 * @return True if the stream is blocked.
 */
bool filter_block_oversize(stream_filter_t *filter, uint16_t frame_bytes) {
    bool blocked = false;

    if (filter != NULL) {
        if (frame_bytes > filter->max_frame_bytes) {
            filter->blocked = true;
        }
        blocked = filter->blocked;
    }
    return blocked;
}
