/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sync_message.c
 * @brief Headers of gPTP messages, and the pairing of Sync with Follow_Up.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PTP_HEADER_BYTES 34U
#define PTP_VERSION 2U
#define PTP_MESSAGE_SYNC 0x0U
#define PTP_MESSAGE_FOLLOW_UP 0x8U

/** A Sync that waits for its Follow_Up. */
typedef struct {
    uint64_t receive_time_ns;
    uint16_t sequence;
    bool waiting;
} sync_pending_t;

/**
 * @brief Read the message type from a PTP header.
 * @param message First byte of the header.
 * @param length Bytes that were received.
 * @param message_type Type that was read.
 * @return True if the header is complete and of version 2.
 */
bool sync_read_type(const uint8_t *message, uint16_t length, uint8_t *message_type) {
    bool valid = false;

    if ((message != NULL) && (message_type != NULL) && (length >= PTP_HEADER_BYTES)) {
        const uint8_t version = message[1] & 0x0FU;
        *message_type = message[0] & 0x0FU;
        valid = (version == PTP_VERSION);
    }
    return valid;
}

/**
 * @brief Read the correction field of a header in nanoseconds.
 * @param message First byte of a complete header.
 * @return Correction without its 16 fractional bits.
 */
int64_t sync_correction_ns(const uint8_t *message) {
    uint64_t raw = 0U;

    if (message != NULL) {
        for (uint8_t i = 8U; i < 16U; i++) {
            raw = (raw << 8U) | message[i];
        }
    }
    return (int64_t)raw / 65536;
}

/**
 * @brief Remember a Sync until its Follow_Up comes.
 * @param pending Slot of the port.
 * @param sequence Sequence number of the Sync.
 * @param receive_time_ns Local time at which it came in.
 */
void sync_remember(sync_pending_t *pending, uint16_t sequence, uint64_t receive_time_ns) {
    if (pending != NULL) {
        pending->sequence = sequence;
        pending->receive_time_ns = receive_time_ns;
        pending->waiting = true;
    }
}

/**
 * @brief Match a Follow_Up with the Sync that waits.
 * @param pending Slot of the port.
 * @param sequence Sequence number of the Follow_Up.
 * @return True if they belong together; the slot is free then.
 */
bool sync_match(sync_pending_t *pending, uint16_t sequence) {
    bool matched = false;

    if ((pending != NULL) && pending->waiting) {
        matched = (pending->sequence == sequence);
        pending->waiting = !matched;
    }
    return matched;
}

/**
 * @brief Check that Sync messages have not stopped.
 * @param timestamp Current time.
 * @param last_sync Time of the last Sync.
 * @param interval Time between two Sync messages.
 * @return True if fewer than three intervals have passed.
 */
bool sync_alive(uint64_t timestamp, uint64_t last_sync, uint32_t interval) {
    bool alive = true;

    if (timestamp > last_sync) {
        const uint64_t silent = timestamp - last_sync;
        alive = silent < ((uint64_t)interval * 3U);
    }
    return alive;
}
