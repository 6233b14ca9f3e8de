/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file channel_map.c
 * @brief Map the channels of a stream to the loudspeakers of the cabin.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHANNEL_MAX 16U
#define CHANNEL_UNUSED 0xFFU

/**
 * @brief Check that a map uses each stream channel at most once.
 * @param map Stream channel of each output, CHANNEL_UNUSED for silence.
 * @param output_count Number of outputs.
 * @param channel_count Channels of the stream, at most 16.
 * @return True if the map is usable.
 */
bool channel_map_valid(const uint8_t *map, uint8_t output_count, uint8_t channel_count) {
    bool valid = (map != NULL) && (channel_count <= CHANNEL_MAX);
    uint32_t used = 0U;

    for (uint8_t i = 0U; valid && (i < output_count); i++) {
        if (map[i] != CHANNEL_UNUSED) {
            if (map[i] >= channel_count) {
                valid = false;
            } else {
                const uint32_t bit = 1UL << map[i];
                valid = ((used & bit) == 0U);
                used |= bit;
            }
        }
    }
    return valid;
}

/**
 * @brief Copy one interleaved frame through a map.
 * @param input One sample per stream channel.
 * @param output One sample per output.
 * @param map Stream channel of each output.
 * @param output_count Number of outputs.
 */
void channel_map_frame(const int16_t *input, int16_t *output, const uint8_t *map, uint8_t output_count) {
    if ((input != NULL) && (output != NULL) && (map != NULL)) {
        for (uint8_t i = 0U; i < output_count; i++) {
            if (map[i] == CHANNEL_UNUSED) {
                output[i] = 0;
            } else {
                output[i] = input[map[i]];
            }
        }
    }
}

/**
 * @brief Take one channel out of an interleaved block.
 * @param block Interleaved samples.
 * @param frame_count Frames in the block.
 * @param channel_count Channels of each frame.
 * @param channel Channel to take.
 * @param samples Samples of that channel.
 * @return Number of samples taken.
 */
uint16_t channel_extract(const int16_t *block, uint16_t frame_count, uint8_t channel_count, uint8_t channel,
                         int16_t *samples) {
    uint16_t taken = 0U;

    if ((block != NULL) && (samples != NULL) && (channel < channel_count)) {
        for (uint16_t i = 0U; i < frame_count; i++) {
            const uint32_t position = ((uint32_t)i * channel_count) + channel;
            samples[i] = block[position];
            taken++;
        }
    }
    return taken;
}
