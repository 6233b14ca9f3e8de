/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sample_buffer.c
 * @brief Ring buffer of audio samples between the network and the codec.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAMPLE_BUFFER_SIZE 256U

/** Ring of samples; one slot stays free to tell full from empty. */
typedef struct {
    int32_t samples[SAMPLE_BUFFER_SIZE];
    uint16_t head;
    uint16_t tail;
    uint32_t overruns;
    uint32_t underruns;
} sample_buffer_t;

/**
 * @brief Count the samples that wait in a buffer.
 * @param buffer Buffer to look at.
 * @return Number of samples.
 */
uint16_t sample_buffer_level(const sample_buffer_t *buffer) {
    uint16_t level = 0U;

    if (buffer != NULL) {
        const uint32_t distance = SAMPLE_BUFFER_SIZE + buffer->head - buffer->tail;
        level = (uint16_t)(distance % SAMPLE_BUFFER_SIZE);
    }
    return level;
}

/**
 * @brief Put one sample in a buffer.
 * @param buffer Buffer to fill.
 * @param sample Sample to put.
 * @return True if there was room.
 */
bool sample_buffer_put(sample_buffer_t *buffer, int32_t sample) {
    bool stored = false;

    if (buffer != NULL) {
        const uint16_t next = (uint16_t)((buffer->head + 1U) % SAMPLE_BUFFER_SIZE);
        if (next == buffer->tail) {
            buffer->overruns++;
        } else {
            buffer->samples[buffer->head] = sample;
            buffer->head = next;
            stored = true;
        }
    }
    return stored;
}

/**
 * @brief Take one sample from a buffer.
 * @param buffer Buffer to drain.
 * @return Oldest sample, silence if the buffer is empty.
 */
int32_t sample_buffer_get(sample_buffer_t *buffer) {
    int32_t sample = 0;

    if (buffer != NULL) {
        if (buffer->head == buffer->tail) {
            buffer->underruns++;
        } else {
            sample = buffer->samples[buffer->tail];
            buffer->tail = (uint16_t)((buffer->tail + 1U) % SAMPLE_BUFFER_SIZE);
        }
    }
    return sample;
}

/**
 * @brief Decide whether playback may start.
 * @param buffer Buffer of the stream.
 * @param start_level Samples that have to wait first.
 * @return True if enough samples wait.
 */
bool sample_buffer_ready(const sample_buffer_t *buffer, uint16_t start_level) {
    bool ready = false;

    if ((buffer != NULL) && (start_level < SAMPLE_BUFFER_SIZE)) {
        const uint16_t level = sample_buffer_level(buffer);
        ready = (level >= start_level);
    }
    return ready;
}
