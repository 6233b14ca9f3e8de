/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file frame_replication.c
 * @brief Sequence numbers and elimination of duplicates (IEEE 802.1CB).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECOVERY_HISTORY 32U

/** Vector recovery of one stream. Bit n of history is the packet n before the newest. */
typedef struct {
    uint32_t history;
    uint16_t newest;
    bool started;
    uint32_t duplicates;
    uint32_t rogue;
} recovery_t;

/**
 * @brief Give the next sequence number of a talker.
 * @param sequence Counter of the stream.
 * @return Number for this packet, from 0 to 65535.
 */
uint16_t replication_next(uint16_t *sequence) {
    uint16_t number = 0U;

    if (sequence != NULL) {
        number = *sequence;
        *sequence = (uint16_t)(number + 1U);
    }
    return number;
}

/**
 * @brief Compute the signed distance of two sequence numbers.
 * @param sequence Number of the packet.
 * @param newest Newest number seen.
 * @return Positive if the packet is newer.
 */
int32_t replication_distance(uint16_t sequence, uint16_t newest) {
    const uint16_t forward = (uint16_t)(sequence - newest);
    int32_t distance = (int32_t)forward;

    if (forward > 32767U) {
        distance -= 65536;
    }
    return distance;
}

/**
 * @brief Decide whether a packet is the first of its copies.
 * @param recovery State of the stream.
 * @param sequence Sequence number of the packet.
 * @return True if the packet is to be passed on.
 */
bool recovery_accept(recovery_t *recovery, uint16_t sequence) {
    bool accept = false;

    if (recovery != NULL) {
        const int32_t distance = replication_distance(sequence, recovery->newest);
        if (!recovery->started) {
            recovery->started = true;
            recovery->history = 1U;
            recovery->newest = sequence;
            accept = true;
        } else if (distance > 0) {
            const uint32_t shift = (uint32_t)distance;
            recovery->history = (shift < RECOVERY_HISTORY) ? ((recovery->history << shift) | 1U) : 1U;
            recovery->newest = sequence;
            accept = true;
        } else if (distance > -(int32_t)RECOVERY_HISTORY) {
            const uint32_t bit = 1UL << (uint32_t)(-distance);
            accept = ((recovery->history & bit) == 0U);
            recovery->history |= bit;
            recovery->duplicates += accept ? 0U : 1U;
        } else {
            recovery->rogue++;
        }
    }
    return accept;
}

/**
 * @brief Start over when no packet came for a while.
 * @param recovery State of the stream.
 * @param silent_ms Time since the last packet.
 * @param reset_ms Time after which the stream starts over.
 */
void recovery_timeout(recovery_t *recovery, uint32_t silent_ms, uint32_t reset_ms) {
    if ((recovery != NULL) && (silent_ms >= reset_ms)) {
        recovery->started = false;
        recovery->history = 0U;
        recovery->newest = 0U;
    }
}
