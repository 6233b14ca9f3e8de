/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sample_convert.c
 * @brief Formats and gain of audio samples.
 */
#include <stddef.h>
#include <stdint.h>

#define SAMPLE_24_MAX 8388607
#define SAMPLE_24_MIN (-8388608)

/**
 * @brief Read a 24-bit sample from three bytes.
 * @param bytes Three bytes, most significant first.
 * @return Sign-extended sample.
 */
int32_t sample_read_24(const uint8_t *bytes) {
    int32_t sample = 0;

    if (bytes != NULL) {
        const uint32_t raw = ((uint32_t)bytes[0] << 16U) | ((uint32_t)bytes[1] << 8U) | bytes[2];
        sample = (int32_t)raw;
        if (raw > (uint32_t)SAMPLE_24_MAX) {
            sample -= 16777216;
        }
    }
    return sample;
}

/**
 * @brief Write a sample to three bytes.
 * @param sample Sample to write; what is out of range is clipped.
 * @param bytes Three bytes, most significant first.
 */
void sample_write_24(int32_t sample, uint8_t *bytes) {
    int32_t clipped = sample;

    if (clipped > SAMPLE_24_MAX) {
        clipped = SAMPLE_24_MAX;
    }
    if (clipped < SAMPLE_24_MIN) {
        clipped = SAMPLE_24_MIN;
    }
    if (bytes != NULL) {
        const uint32_t raw = (uint32_t)clipped;
        bytes[0] = (uint8_t)((raw >> 16U) & 0xFFU);
        bytes[1] = (uint8_t)((raw >> 8U) & 0xFFU);
        bytes[2] = (uint8_t)(raw & 0xFFU);
    }
}

/**
 * @brief Apply a gain to a block of samples.
 * @param samples Samples to change.
 * @param sample_count Number of samples.
 * @param gain_q15 Gain, 32768 for no change.
 */
void sample_apply_gain(int16_t *samples, uint16_t sample_count, uint16_t gain_q15) {
    if (samples != NULL) {
        for (uint16_t i = 0U; i < sample_count; i++) {
            int32_t scaled = (int32_t)(((int64_t)samples[i] * gain_q15) / 32768);
            if (scaled > INT16_MAX) {
                scaled = INT16_MAX;
            }
            if (scaled < INT16_MIN) {
                scaled = INT16_MIN;
            }
            samples[i] = (int16_t)scaled;
        }
    }
}

/**
 * @brief Compute the mean power of a block.
 * @param samples Samples of one channel.
 * @param sample_count Number of samples.
 * @return Mean of the squares, 0 for an empty block.
 */
uint32_t sample_mean_power(const int16_t *samples, uint16_t sample_count) {
    uint32_t power = 0U;

    if ((samples != NULL) && (sample_count > 0U)) {
        uint64_t sum = 0U;
        for (uint16_t i = 0U; i < sample_count; i++) {
            const int32_t value = samples[i];
            sum += (uint64_t)((int64_t)value * value);
        }
        power = (uint32_t)(sum / sample_count);
    }
    return power;
}
