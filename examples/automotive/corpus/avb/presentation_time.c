/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file presentation_time.c
 * @brief When the samples of a packet are to be heard, in 32-bit AVTP time.
 */
#include <stdbool.h>
#include <stdint.h>

/** Half of the range of an AVTP timestamp. */
static const uint32_t HALF_RANGE = 0x80000000U;

/**
 * @brief Tell whether a presentation time has passed, across the wrap of the counter.
 * @param presentation Presentation time of a packet.
 * @param now Current time.
 * @return True if the packet is late.
 */
bool presentation_is_late(uint32_t presentation, uint32_t now) {
    const uint32_t behind = now - presentation;
    bool late = false;

    if (behind != 0U) {
        late = (behind < HALF_RANGE);
    }
    return late;
}

/**
 * @brief Compute the time until a packet is to be heard.
 * @param presentation Presentation time of the packet.
 * @param now Current time.
 * @return Nanoseconds left, 0 if the packet is late.
 */
uint32_t presentation_time_left(uint32_t presentation, uint32_t now) {
    uint32_t left = 0U;

    if (!presentation_is_late(presentation, now)) {
        left = presentation - now;
    }
    return left;
}

/**
 * @brief Restore the full PTP time of a presentation time.
 * @param presentation Low 32 bits of the time.
 * @param ptp_now Current PTP time in nanoseconds.
 * @return PTP time that is nearest to now and ends in these bits.
 */
uint64_t presentation_expand(uint32_t presentation, uint64_t ptp_now) {
    const uint32_t low = (uint32_t)ptp_now;
    const uint32_t ahead = presentation - low;
    uint64_t expanded = ptp_now + ahead;

    if (ahead >= HALF_RANGE) {
        const uint32_t behind = low - presentation;
        expanded = ptp_now - behind;
    }
    return expanded;
}

/**
 * @brief Compute the worst latency of a class over a path.
 * @param hop_count Bridges on the path.
 * @param hop_latency_ns Latency of each bridge.
 * @param class_limit_ns Limit of the class, 2 ms for A and 50 ms for B.
 * @return Latency in nanoseconds, at most the limit.
 */
uint32_t presentation_path_latency(uint8_t hop_count, uint32_t hop_latency_ns, uint32_t class_limit_ns) {
    const uint64_t latency = (uint64_t)hop_count * hop_latency_ns;
    uint32_t limited = class_limit_ns;

    if (latency < class_limit_ns) {
        limited = (uint32_t)latency;
    }
    return limited;
}
