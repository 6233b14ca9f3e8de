/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file avtp_header.c
 * @brief Write and read the stream header of an AVTP packet.
 */
#include "avtp_header.h"

#include <stddef.h>

static const uint8_t STREAM_VALID_BIT = 0x80U;
static const uint8_t TIMESTAMP_VALID_BIT = 0x01U;

static void put_bytes(uint8_t *packet, uint64_t value, uint8_t count) {
    uint64_t rest = value;

    for (uint8_t i = count; i > 0U; i--) {
        packet[i - 1U] = (uint8_t)(rest & 0xFFU);
        rest >>= 8U;
    }
}

static uint64_t get_bytes(const uint8_t *packet, uint8_t count) {
    uint64_t value = 0U;

    for (uint8_t i = 0U; i < count; i++) {
        value = (value << 8U) | packet[i];
    }
    return value;
}

/**
 * @brief Write a stream header.
 * @param header Fields to write.
 * @param packet First byte of the AVTP packet.
 * @param capacity Size of the buffer.
 * @return True if there was room.
 */
bool avtp_header_write(const avtp_header_t *header, uint8_t *packet, uint16_t capacity) {
    bool written = false;

    if ((header != NULL) && (packet != NULL) && (capacity >= AVTP_HEADER_BYTES)) {
        packet[0] = header->subtype;
        packet[1] = STREAM_VALID_BIT;
        if (header->timestamp_valid) {
            packet[1] = (uint8_t)(packet[1] | TIMESTAMP_VALID_BIT);
        }
        packet[2] = header->sequence;
        packet[3] = 0U;
        put_bytes(&packet[4], header->stream_id, 8U);
        put_bytes(&packet[12], header->timestamp, 4U);
        put_bytes(&packet[16], 0U, 4U);
        put_bytes(&packet[20], header->data_length, 2U);
        put_bytes(&packet[22], 0U, 2U);
        written = true;
    }
    return written;
}

/**
 * @brief Read a stream header.
 * @param packet First byte of the AVTP packet.
 * @param length Bytes that were received.
 * @param header Fields that were read.
 * @return True if the header is whole and the stream data fits in the packet.
 */
bool avtp_header_read(const uint8_t *packet, uint16_t length, avtp_header_t *header) {
    bool valid = false;

    if ((packet != NULL) && (header != NULL) && (length >= AVTP_HEADER_BYTES)) {
        header->subtype = packet[0];
        header->timestamp_valid = (packet[1] & TIMESTAMP_VALID_BIT) != 0U;
        header->sequence = packet[2];
        header->stream_id = get_bytes(&packet[4], 8U);
        header->timestamp = (uint32_t)get_bytes(&packet[12], 4U);
        header->data_length = (uint16_t)get_bytes(&packet[20], 2U);
        valid = ((packet[1] & STREAM_VALID_BIT) != 0U) && (header->data_length <= (length - AVTP_HEADER_BYTES));
    }
    return valid;
}

/**
 * @brief Prepare the header of the next packet of a stream.
 * @param header Header of the packet before.
 * @param timestamp Presentation time of the first sample.
 * @param data_length Length of the samples in bytes.
 * @return True if the header was updated.
 */
bool avtp_header_next(avtp_header_t *header, uint32_t timestamp, uint16_t data_length) {
    bool updated = false;

    if (header != NULL) {
        header->sequence = (uint8_t)(header->sequence + 1U);
        header->timestamp = timestamp;
        header->timestamp_valid = true;
        header->data_length = data_length;
        updated = true;
    }
    return updated;
}
