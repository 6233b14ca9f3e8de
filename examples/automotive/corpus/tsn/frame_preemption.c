/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file frame_preemption.c
 * @brief Fragment sizes and verification of frame preemption (IEEE 802.1Qbu, 802.3br).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PREEMPT_MIN_FRAGMENT 64U
#define PREEMPT_CRC_BYTES 4U
#define PREEMPT_VERIFY_LIMIT 3U

/** Verification of the neighbour's support. */
typedef enum {
    VERIFY_IDLE = 0,
    VERIFY_WAITING,
    VERIFY_DONE,
    VERIFY_FAILED
} verify_state_t;

/** Preemption state of a port. */
typedef struct {
    verify_state_t state;
    uint8_t attempts;
    uint8_t express_mask;
} preempt_port_t;

/**
 * @brief Compute the smallest first fragment of a port.
 * @param add_frag_size Value the neighbour advertised, 0 to 3.
 * @return Fragment size in bytes.
 */
uint16_t preempt_min_fragment(uint8_t add_frag_size) {
    uint16_t size = PREEMPT_MIN_FRAGMENT;

    if (add_frag_size <= 3U) {
        size = (uint16_t)(PREEMPT_MIN_FRAGMENT * (1U + (uint32_t)add_frag_size));
    } else {
        size = (uint16_t)(PREEMPT_MIN_FRAGMENT * 4U);
    }
    return size;
}

/**
 * @brief Decide whether a frame on the wire may be cut now.
 * @param sent_bytes Bytes already sent.
 * @param frame_bytes Length of the whole frame.
 * @param min_fragment Smallest fragment of the port.
 * @return True if both parts would be long enough.
 */
bool preempt_may_cut(uint16_t sent_bytes, uint16_t frame_bytes, uint16_t min_fragment) {
    bool may_cut = false;

    if ((sent_bytes <= frame_bytes) && (sent_bytes >= (uint32_t)(min_fragment - PREEMPT_CRC_BYTES))) {
        const uint32_t rest = (uint32_t)frame_bytes - sent_bytes;
        may_cut = (rest >= PREEMPT_MIN_FRAGMENT);
    }
    return may_cut;
}

/**
 * @brief Tell whether the queue of a priority is express.
 * @param port Preemption state of the port.
 * @param priority Priority of the queue.
 * @return True if its frames are never cut.
 */
bool preempt_is_express(const preempt_port_t *port, uint8_t priority) {
    bool express = true;

    if ((port != NULL) && (port->state == VERIFY_DONE) && (priority <= 7U)) {
        const uint32_t bit = 1UL << priority;
        express = (port->express_mask & bit) != 0U;
    }
    return express;
}

/**
 * @brief Advance the verification when its timer expires or a response comes.
 * @param port Preemption state of the port.
 * @param response_seen Whether the neighbour has answered.
 * @return New state.
 */
verify_state_t preempt_verify_step(preempt_port_t *port, bool response_seen) {
    verify_state_t next = VERIFY_FAILED;

    if (port != NULL) {
        if (response_seen) {
            next = VERIFY_DONE;
        } else if (port->attempts < PREEMPT_VERIFY_LIMIT) {
            port->attempts++;
            next = VERIFY_WAITING;
        } else {
            next = VERIFY_FAILED;
        }
        port->state = next;
    }
    return next;
}
