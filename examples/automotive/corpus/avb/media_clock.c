/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file media_clock.c
 * @brief Recover the media clock of a talker from the timestamps of its stream.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MEDIA_CLOCK_UNLOCK_LIMIT 4U

/** Recovered clock of a stream. */
typedef struct {
    uint32_t nominal_period_ns;
    uint32_t last_timestamp;
    int32_t error_ns;
    uint8_t bad_packets;
    bool started;
} media_clock_t;

/**
 * @brief Compute the time that the samples of one packet take.
 * @param sample_count Samples of each channel in a packet.
 * @param sample_rate Samples per second.
 * @return Period in nanoseconds, rounded to the nearest.
 */
uint32_t media_packet_period(uint16_t sample_count, uint32_t sample_rate) {
    uint32_t period = 0U;

    if (sample_rate > 0U) {
        const uint64_t scaled = (uint64_t)sample_count * 1000000000U;
        period = (uint32_t)((scaled + (sample_rate / 2U)) / sample_rate);
    }
    return period;
}

/**
 * @brief Start a clock at the first packet of a stream.
 * @param clock Clock to start.
 * @param period_ns Nominal time between two packets.
 * @param timestamp Presentation time of the first packet.
 */
void media_clock_start(media_clock_t *clock, uint32_t period_ns, uint32_t timestamp) {
    if (clock != NULL) {
        clock->nominal_period_ns = period_ns;
        clock->last_timestamp = timestamp;
        clock->error_ns = 0;
        clock->bad_packets = 0U;
        clock->started = (period_ns > 0U);
    }
}

/**
 * @brief Feed the timestamp of the next packet to a clock.
 * @param clock Clock of the stream.
 * @param timestamp Presentation time of the packet.
 * @param limit_ns Largest believable error of a packet.
 * @return Smoothed error in nanoseconds, positive if the talker is slow.
 */
int32_t media_clock_update(media_clock_t *clock, uint32_t timestamp, uint32_t limit_ns) {
    int32_t smoothed = 0;

    if ((clock != NULL) && clock->started) {
        const uint32_t period = timestamp - clock->last_timestamp;
        const int64_t error = (int64_t)period - (int64_t)clock->nominal_period_ns;
        if ((error <= (int64_t)limit_ns) && (error >= -(int64_t)limit_ns)) {
            clock->error_ns += (int32_t)((error - clock->error_ns) / 16);
            clock->bad_packets = 0U;
        } else if (clock->bad_packets < MEDIA_CLOCK_UNLOCK_LIMIT) {
            clock->bad_packets++;
        } else {
            clock->started = false;
        }
        clock->last_timestamp = timestamp;
        smoothed = clock->error_ns;
    }
    return smoothed;
}

/**
 * @brief Correct the clock of the codec by the error of the stream.
 * @param divider Nominal divider of the codec clock.
 * @param error_ppm Error of the stream in parts per million.
 * @return Divider to set, within 100 ppm of the nominal one.
 */
uint32_t media_clock_divider(uint32_t divider, int32_t error_ppm) {
    int32_t limited = error_ppm;

    if (limited > 100) {
        limited = 100;
    }
    if (limited < -100) {
        limited = -100;
    }
    return (uint32_t)((int64_t)divider + (((int64_t)divider * limited) / 1000000));
}
