/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ptp_timestamp.c
 * @brief Arithmetic on PTP timestamps of 48-bit seconds and nanoseconds.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PTP_NS_PER_SECOND 1000000000U

/** Time since the PTP epoch. */
typedef struct {
    uint64_t seconds;      /**< Only 48 bits are used. */
    uint32_t nanoseconds;  /**< Below one second. */
} ptp_time_t;

/**
 * @brief Add a duration to a timestamp.
 * @param timestamp Timestamp to start from.
 * @param duration_ns Duration to add.
 * @return Normalized sum.
 */
ptp_time_t ptp_time_add(ptp_time_t timestamp, uint64_t duration_ns) {
    const uint64_t nanoseconds = (duration_ns % PTP_NS_PER_SECOND) + timestamp.nanoseconds;
    ptp_time_t sum = {0U, 0U};

    sum.seconds = timestamp.seconds + (duration_ns / PTP_NS_PER_SECOND) + (nanoseconds / PTP_NS_PER_SECOND);
    sum.nanoseconds = (uint32_t)(nanoseconds % PTP_NS_PER_SECOND);
    return sum;
}

/**
 * @brief Compare two timestamps.
 * @param first One timestamp.
 * @param second The other timestamp.
 * @return -1, 0 or 1 as the first is earlier, equal or later.
 */
int8_t ptp_time_compare(const ptp_time_t *first, const ptp_time_t *second) {
    int8_t order = 0;

    if ((first != NULL) && (second != NULL)) {
        if (first->seconds != second->seconds) {
            order = (first->seconds < second->seconds) ? -1 : 1;
        } else if (first->nanoseconds != second->nanoseconds) {
            order = (first->nanoseconds < second->nanoseconds) ? -1 : 1;
        } else {
            order = 0;
        }
    }
    return order;
}

/**
 * @brief Write a timestamp in the ten bytes of a PTP message.
 * @param timestamp Timestamp to write.
 * @param message Ten bytes, most significant first.
 * @return True if the timestamp was valid and written.
 */
bool ptp_time_write(const ptp_time_t *timestamp, uint8_t message[10]) {
    bool written = false;

    if ((timestamp != NULL) && (message != NULL) && (timestamp->nanoseconds < PTP_NS_PER_SECOND)) {
        for (uint8_t i = 0U; i < 6U; i++) {
            message[i] = (uint8_t)(timestamp->seconds >> (8U * (5U - (uint32_t)i)));
        }
        for (uint8_t i = 0U; i < 4U; i++) {
            message[6U + i] = (uint8_t)(timestamp->nanoseconds >> (8U * (3U - (uint32_t)i)));
        }
        written = true;
    }
    return written;
}

/**
 * @brief Read a timestamp from the ten bytes of a PTP message.
 * @param message Ten bytes, most significant first.
 * @param timestamp Timestamp that was read.
 * @return True if the nanoseconds are below one second.
 */
bool ptp_time_read(const uint8_t message[10], ptp_time_t *timestamp) {
    bool valid = false;

    if ((message != NULL) && (timestamp != NULL)) {
        uint64_t seconds = 0U;
        uint32_t nanoseconds = 0U;
        for (uint8_t i = 0U; i < 6U; i++) {
            seconds = (seconds << 8U) | message[i];
        }
        for (uint8_t i = 6U; i < 10U; i++) {
            nanoseconds = (nanoseconds << 8U) | message[i];
        }
        timestamp->seconds = seconds;
        timestamp->nanoseconds = nanoseconds;
        valid = (nanoseconds < PTP_NS_PER_SECOND);
    }
    return valid;
}
