/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stream_table.c
 * @brief Table of the AVB streams that an end station knows.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_TABLE_SIZE 8U
#define STREAM_NOT_FOUND 0xFFU

/** One known stream; an id of 0 marks a free slot. */
typedef struct {
    uint64_t stream_id;
    uint8_t channel_count;
    uint32_t packets;
} stream_slot_t;

static stream_slot_t stream_table[STREAM_TABLE_SIZE];

/**
 * @brief Find the slot of a stream.
 * @param stream_id Stream to look for.
 * @return Slot number, STREAM_NOT_FOUND if it is unknown.
 */
uint8_t stream_find(uint64_t stream_id) {
    uint8_t slot = STREAM_NOT_FOUND;

    for (uint8_t i = 0U; i < STREAM_TABLE_SIZE; i++) {
        if (stream_table[i].stream_id == stream_id) {
            slot = i;
            break;
        }
    }
    return slot;
}

/**
 * @brief Add a stream to the table.
 * @param stream_id Stream to add, not 0.
 * @param channel_count Number of its channels.
 * @return True if it is new and there was a free slot.
 */
bool stream_add(uint64_t stream_id, uint8_t channel_count) {
    bool added = false;

    if ((stream_id != 0U) && (stream_find(stream_id) == STREAM_NOT_FOUND)) {
        const uint8_t slot = stream_find(0U);
        if (slot != STREAM_NOT_FOUND) {
            stream_table[slot].stream_id = stream_id;
            stream_table[slot].channel_count = channel_count;
            stream_table[slot].packets = 0U;
            added = true;
        }
    }
    return added;
}

/**
 * @brief Count a packet of a stream.
 * @param stream_id Stream of the packet.
 * @return Packets of the stream so far, 0 if it is unknown.
 */
uint32_t stream_count_packet(uint64_t stream_id) {
    uint32_t packets = 0U;

    if (stream_id != 0U) {
        const uint8_t slot = stream_find(stream_id);
        if (slot != STREAM_NOT_FOUND) {
            stream_table[slot].packets++;
            packets = stream_table[slot].packets;
        }
    }
    return packets;
}

/**
 * @brief Remove a stream from the table.
 * @param stream_id Stream to remove.
 * @return True if it was there.
 */
bool stream_remove(uint64_t stream_id) {
    bool removed = false;

    if (stream_id != 0U) {
        const uint8_t slot = stream_find(stream_id);
        if (slot != STREAM_NOT_FOUND) {
            stream_table[slot].stream_id = 0U;
            stream_table[slot].channel_count = 0U;
            removed = true;
        }
    }
    return removed;
}
