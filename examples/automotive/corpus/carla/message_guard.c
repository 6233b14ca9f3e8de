/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file message_guard.c
 * @brief Checksum and alive counter of control messages.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUARD_POLYNOMIAL 0x1DU
#define GUARD_MAX_ERRORS 3U

/** What a receiver knows about one message. */
typedef struct {
    uint8_t last_counter;
    uint8_t errors;
    bool started;
} message_guard_t;

/**
 * @brief Compute the CRC-8 of a message (SAE J1850).
 * @param data Bytes of the message.
 * @param length Number of bytes.
 * @return Checksum.
 */
uint8_t guard_crc(const uint8_t *data, uint8_t length) {
    uint8_t crc = 0xFFU;

    if (data != NULL) {
        for (uint8_t i = 0U; i < length; i++) {
            crc = (uint8_t)(crc ^ data[i]);
            for (uint8_t bit = 0U; bit < 8U; bit++) {
                const bool carry = (crc & 0x80U) != 0U;
                crc = (uint8_t)(crc << 1U);
                crc = carry ? (uint8_t)(crc ^ GUARD_POLYNOMIAL) : crc;
            }
        }
    }
    return (uint8_t)(crc ^ 0xFFU);
}

/**
 * @brief Protect a message: counter in the second byte, checksum in the first.
 * @param message Message of at least two bytes.
 * @param length Length of the message.
 * @param counter Alive counter, 0 to 15.
 * @return True if the message was long enough.
 */
bool guard_protect(uint8_t *message, uint8_t length, uint8_t counter) {
    bool done = false;

    if ((message != NULL) && (length >= 2U)) {
        message[1] = (uint8_t)((message[1] & 0xF0U) | (counter & 0x0FU));
        message[0] = guard_crc(&message[1], (uint8_t)(length - 1U));
        done = true;
    }
    return done;
}

/**
 * @brief Check a message that came in.
 * @param guard State of the receiver.
 * @param message Message of at least two bytes.
 * @param length Length of the message.
 * @return True if the checksum is right and the counter has moved on by one.
 */
bool guard_check(message_guard_t *guard, const uint8_t *message, uint8_t length) {
    bool good = false;

    if ((guard != NULL) && (message != NULL) && (length >= 2U)) {
        const uint8_t counter = message[1] & 0x0FU;
        const uint8_t expected = (uint8_t)((guard->last_counter + 1U) & 0x0FU);
        const bool intact = (message[0] == guard_crc(&message[1], (uint8_t)(length - 1U)));
        good = intact && ((!guard->started) || (counter == expected));
        if (intact) {
            guard->last_counter = counter;
            guard->started = true;
        }
        if (good) {
            guard->errors = 0U;
        } else if (guard->errors < GUARD_MAX_ERRORS) {
            guard->errors++;
        } else {
            guard->errors = GUARD_MAX_ERRORS;
        }
    }
    return good;
}

/**
 * @brief Tell whether a message may still be trusted.
 * @param guard State of the receiver.
 * @return False before the first message and after three bad ones in a row.
 */
bool guard_trusted(const message_guard_t *guard) {
    bool trusted = false;

    if ((guard != NULL) && guard->started) {
        const uint8_t errors = guard->errors;
        trusted = (errors < GUARD_MAX_ERRORS);
    }
    return trusted;
}
