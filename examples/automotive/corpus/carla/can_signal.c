/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file can_signal.c
 * @brief Signals of any length in the eight bytes of a CAN frame.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CAN_BITS 64U

/**
 * @brief Read a little-endian signal.
 * @param data Eight data bytes.
 * @param start Position of the lowest bit.
 * @param length Number of bits, 1 to 32.
 * @return Raw value, 0 if the signal does not fit.
 */
uint32_t can_signal_read(const uint8_t data[8], uint8_t start, uint8_t length) {
    uint64_t raw = 0U;

    if ((data != NULL) && (length >= 1U) && (length <= 32U) && ((start + length) <= (int32_t)CAN_BITS)) {
        for (uint8_t i = 8U; i > 0U; i--) {
            raw = (raw << 8U) | data[i - 1U];
        }
        raw >>= start;
        raw &= (UINT64_C(1) << length) - 1U;
    }
    return (uint32_t)raw;
}

/**
 * @brief Write a little-endian signal and leave the other bits alone.
 * @param data Eight data bytes.
 * @param start Position of the lowest bit.
 * @param length Number of bits, 1 to 32.
 * @param raw Raw value; bits above the length are cut off.
 * @return True if the signal fits.
 */
bool can_signal_write(uint8_t data[8], uint8_t start, uint8_t length, uint32_t raw) {
    bool written = false;

    if ((data != NULL) && (length >= 1U) && (length <= 32U) && ((start + length) <= (int32_t)CAN_BITS)) {
        for (uint8_t i = 0U; i < length; i++) {
            const uint32_t position = (uint32_t)start + i;
            const uint8_t bit = (uint8_t)(1U << (position % 8U));
            if (((raw >> i) & 1U) != 0U) {
                data[position / 8U] = (uint8_t)(data[position / 8U] | bit);
            } else {
                data[position / 8U] = (uint8_t)(data[position / 8U] & (uint8_t)~bit);
            }
        }
        written = true;
    }
    return written;
}

/**
 * @brief Extend the sign of a raw value.
 * @param raw Raw value of the signal.
 * @param length Number of bits, 1 to 32.
 * @return Signed value.
 */
int32_t can_signal_signed(uint32_t raw, uint8_t length) {
    int64_t value = (int64_t)raw;

    if ((length >= 1U) && (length <= 32U)) {
        const int64_t sign = INT64_C(1) << (length - 1U);
        if (value >= sign) {
            value -= 2 * sign;
        }
    }
    return (int32_t)value;
}

/**
 * @brief Scale a raw value to a physical one.
 * @param raw Signed raw value.
 * @param factor_milli Factor of the signal in thousandths.
 * @param offset_milli Offset of the signal in thousandths.
 * @return Physical value in thousandths, saturated.
 */
int32_t can_signal_scale(int32_t raw, int32_t factor_milli, int32_t offset_milli) {
    int64_t physical = ((int64_t)raw * factor_milli) + offset_milli;

    if (physical > INT32_MAX) {
        physical = INT32_MAX;
    }
    if (physical < INT32_MIN) {
        physical = INT32_MIN;
    }
    return (int32_t)physical;
}
