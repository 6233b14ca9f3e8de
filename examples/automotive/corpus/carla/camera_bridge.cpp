// SPDX-License-Identifier: Apache-2.0
/**
 * @file camera_bridge.cpp
 * @brief Cut simulated camera images into video packets.
 */
#include <array>
#include <cstddef>
#include <cstdint>

#include "sensor_frame.h"

namespace carla_bridge {

/** Geometry of an image as the simulator delivers it. */
struct CameraFormat {
    std::uint16_t width;
    std::uint16_t height;
    std::uint8_t bytes_per_pixel;
};

/** Position of one packet in an image. */
struct VideoSlice {
    std::uint32_t offset;
    std::uint16_t length;
    bool last;
};

static constexpr std::uint16_t kMaxSlice = 1400U;

/**
 * @brief Compute the length of one image line.
 * @param format Geometry of the image.
 * @return Bytes of a line, 0 for an unknown pixel format.
 */
std::uint32_t line_bytes(const CameraFormat& format) {
    std::uint32_t bytes = 0U;

    if ((format.bytes_per_pixel == 1U) || (format.bytes_per_pixel == 3U) || (format.bytes_per_pixel == 4U)) {
        bytes = static_cast<std::uint32_t>(format.width) * format.bytes_per_pixel;
    }
    return bytes;
}

/**
 * @brief Find the part of an image that goes in one packet.
 * @param image_bytes Length of the image.
 * @param packet Number of the packet, from 0.
 * @return Slice of the image; its length is 0 past the end.
 */
VideoSlice slice_of_packet(std::uint32_t image_bytes, std::uint16_t packet) {
    const std::uint32_t offset = static_cast<std::uint32_t>(packet) * kMaxSlice;
    VideoSlice slice{offset, 0U, true};

    if (offset < image_bytes) {
        const std::uint32_t rest = image_bytes - offset;
        slice.last = (rest <= kMaxSlice);
        slice.length = slice.last ? static_cast<std::uint16_t>(rest) : kMaxSlice;
    }
    return slice;
}

/**
 * @brief Convert one BGRA pixel to luminance.
 * @param pixel Blue, green, red and alpha.
 * @return Luminance, 0 to 255.
 */
std::uint8_t luminance(const std::array<std::uint8_t, 4>& pixel) {
    const std::uint32_t blue = 29U * pixel[0];
    const std::uint32_t green = 150U * pixel[1];
    const std::uint32_t red = 77U * pixel[2];
    const std::uint32_t sum = blue + green + red;

    return static_cast<std::uint8_t>(sum >> 8U);
}

/**
 * @brief Decide whether an image is sent or left out to hold the wanted rate.
 * @param frame Header of the image.
 * @param last_sent_us Time of the image sent before.
 * @param interval_us Wanted time between two images.
 * @return True if the image is due.
 */
bool image_due(const sensor_frame_t& frame, std::uint64_t last_sent_us, std::uint32_t interval_us) {
    bool due = false;

    if ((frame.sensor_type == SENSOR_CAMERA) && (frame.timestamp_us >= last_sent_us)) {
        const std::uint64_t elapsed = frame.timestamp_us - last_sent_us;
        due = (elapsed >= interval_us);
    }
    return due;
}

}  // namespace carla_bridge
