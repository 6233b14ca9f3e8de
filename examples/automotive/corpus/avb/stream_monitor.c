/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stream_monitor.c
 * @brief Diagnostic counters of a received stream.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Counters of one stream, after the AVDECC stream input counters. */
typedef struct {
    uint32_t frames;
    uint32_t sequence_errors;
    uint32_t late_timestamps;
    uint32_t resets;
    uint8_t expected_sequence;
    bool locked;
} stream_monitor_t;

/**
 * @brief Check the sequence number of a packet.
 * @param monitor Counters of the stream.
 * @param sequence Sequence number of the packet.
 * @return True if the number was expected.
 */
bool monitor_sequence(stream_monitor_t *monitor, uint8_t sequence) {
    bool expected = false;

    if (monitor != NULL) {
        expected = (!monitor->locked) || (sequence == monitor->expected_sequence);
        if (!expected) {
            monitor->sequence_errors++;
        }
        monitor->frames++;
        monitor->locked = true;
        monitor->expected_sequence = (uint8_t)(sequence + 1U);
    }
    return expected;
}

/**
 * @brief Count a packet whose presentation time has passed.
 * @param monitor Counters of the stream.
 * @param late_ns How late the packet is.
 * @param tolerance_ns Lateness that can't be heard.
 */
void monitor_late(stream_monitor_t *monitor, uint32_t late_ns, uint32_t tolerance_ns) {
    if ((monitor != NULL) && (late_ns > tolerance_ns)) {
        if (monitor->late_timestamps < UINT32_MAX) {
            monitor->late_timestamps++;
        }
    }
}

/**
 * @brief Compute the quality of a stream.
 * @param monitor Counters of the stream.
 * @return Good packets in per mille, 1000 before the first packet.
 */
uint16_t monitor_quality(const stream_monitor_t *monitor) {
    uint16_t quality = 1000U;

    if ((monitor != NULL) && (monitor->frames > 0U)) {
        const uint64_t bad = (uint64_t)monitor->sequence_errors + monitor->late_timestamps;
        const uint64_t share = (bad * 1000U) / monitor->frames;
        quality = (share < 1000U) ? (uint16_t)(1000U - share) : 0U;
    }
    return quality;
}

/**
 * @brief Reset a stream that has been silent for too long.
 * @param monitor Counters of the stream.
 * @param silent_us Time since the last packet.
 * @param limit_us Time after which the stream is lost.
 * @return True if the stream was reset.
 */
bool monitor_unlock(stream_monitor_t *monitor, uint32_t silent_us, uint32_t limit_us) {
    bool reset = false;

    if ((monitor != NULL) && monitor->locked && (silent_us >= limit_us)) {
        monitor->locked = false;
        monitor->resets++;
        reset = true;
    }
    return reset;
}
