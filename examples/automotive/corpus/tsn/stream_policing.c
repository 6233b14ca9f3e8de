/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stream_policing.c
 * @brief Two-rate flow meter with green, yellow and red frames (IEEE 802.1Qci).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Colour of a metered frame. */
typedef enum {
    METER_GREEN = 0,
    METER_YELLOW,
    METER_RED
} meter_colour_t;

/** Token buckets of one flow meter; rates in bytes per millisecond. */
typedef struct {
    uint32_t committed_rate;
    uint32_t committed_burst;
    uint32_t committed_tokens;
    uint32_t excess_rate;
    uint32_t excess_burst;
    uint32_t excess_tokens;
    uint32_t red_frames;
} flow_meter_t;

/**
 * @brief Add tokens to a bucket without letting it run over.
 * @param tokens Tokens in the bucket.
 * @param rate Tokens per millisecond.
 * @param elapsed_ms Time since the last refill.
 * @param burst Size of the bucket.
 * @return Tokens after the refill.
 */
uint32_t meter_refill(uint32_t tokens, uint32_t rate, uint32_t elapsed_ms, uint32_t burst) {
    const uint64_t added = (uint64_t)rate * elapsed_ms;
    uint64_t total = tokens + added;

    if (total > burst) {
        total = burst;
    }
    return (uint32_t)total;
}

/**
 * @brief Let time pass for both buckets of a meter.
 * @param meter Meter to update.
 * @param elapsed_ms Time since the last update.
 */
void meter_elapse(flow_meter_t *meter, uint32_t elapsed_ms) {
    if (meter != NULL) {
        meter->committed_tokens =
            meter_refill(meter->committed_tokens, meter->committed_rate, elapsed_ms, meter->committed_burst);
        meter->excess_tokens =
            meter_refill(meter->excess_tokens, meter->excess_rate, elapsed_ms, meter->excess_burst);
    }
}

/**
 * @brief Colour a frame and take its tokens.
 * @param meter Meter of the stream.
 * @param frame_bytes Length of the frame.
 * @return Colour of the frame.
 */
meter_colour_t meter_colour(flow_meter_t *meter, uint16_t frame_bytes) {
    meter_colour_t colour = METER_RED;

    if (meter != NULL) {
        if (frame_bytes <= meter->committed_tokens) {
            meter->committed_tokens -= frame_bytes;
            colour = METER_GREEN;
        } else if (frame_bytes <= meter->excess_tokens) {
            meter->excess_tokens -= frame_bytes;
            colour = METER_YELLOW;
        } else {
            meter->red_frames++;
        }
    }
    return colour;
}

/**
 * @brief Decide whether a stream that misbehaves has to be blocked.
 * @param meter Meter of the stream.
 * @param red_limit Red frames that are tolerated.
 * @return True if the limit is passed.
 */
bool meter_must_block(const flow_meter_t *meter, uint32_t red_limit) {
    bool block = false;

    if (meter != NULL) {
        const uint32_t seen = meter->red_frames;
        block = (seen > red_limit);
    }
    return block;
}
