/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file avtp_header.h
 * @brief Common stream header of AVTP (IEEE 1722).
 */
#ifndef AVTP_HEADER_H
#define AVTP_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#define AVTP_HEADER_BYTES 24U
#define AVTP_SUBTYPE_AAF 0x02U

/** Fields of a stream header, in host byte order. */
typedef struct {
    uint8_t subtype;
    bool timestamp_valid;
    uint8_t sequence;
    uint64_t stream_id;
    uint32_t timestamp;
    uint16_t data_length;
} avtp_header_t;

bool avtp_header_write(const avtp_header_t *header, uint8_t *packet, uint16_t capacity);
bool avtp_header_read(const uint8_t *packet, uint16_t length, avtp_header_t *header);
bool avtp_header_next(avtp_header_t *header, uint32_t timestamp, uint16_t data_length);

#endif
