// SPDX-License-Identifier: Apache-2.0
/**
 * @file radar_bridge.cpp
 * @brief Turn the detections of a simulated radar into tracked objects.
 */
#include <cstddef>
#include <cstdint>
#include <limits>

namespace carla_bridge {

/** One detection of the radar. */
struct RadarDetection {
    std::uint32_t range_mm;
    std::int32_t closing_mm_s;  // Positive when the object comes nearer.
    std::int16_t azimuth_mrad;
};

/** State of one tracked object. */
struct RadarTrack {
    std::uint32_t range_mm;
    std::int32_t closing_mm_s;
    std::uint8_t hits;
    std::uint8_t misses;
};

static constexpr std::uint8_t kConfirmHits = 3U;
static constexpr std::uint8_t kDropMisses = 5U;

/**
 * @brief Compute the time to a collision.
 * @param detection Detection ahead of the vehicle.
 * @return Milliseconds, the largest value if the object is not coming nearer.
 */
std::uint32_t time_to_collision(const RadarDetection& detection) {
    std::uint32_t time_ms = std::numeric_limits<std::uint32_t>::max();

    if (detection.closing_mm_s > 0) {
        const std::uint64_t scaled = static_cast<std::uint64_t>(detection.range_mm) * 1000U;
        const std::uint64_t result = scaled / static_cast<std::uint32_t>(detection.closing_mm_s);
        time_ms = (result < time_ms) ? static_cast<std::uint32_t>(result) : time_ms;
    }
    return time_ms;
}

/**
 * @brief Move a track to where it should be after a tick.
 * @param track Track to move.
 * @param elapsed_ms Length of the tick.
 */
void predict_track(RadarTrack& track, std::uint16_t elapsed_ms) {
    const std::int64_t moved = (static_cast<std::int64_t>(track.closing_mm_s) * elapsed_ms) / 1000;
    const std::int64_t range = static_cast<std::int64_t>(track.range_mm) - moved;

    if (range > 0) {
        track.range_mm = static_cast<std::uint32_t>(range);
    } else {
        track.range_mm = 0U;
    }
}

/**
 * @brief Give a track the detection that belongs to it, or count a miss.
 * @param track Track after its prediction.
 * @param detection Nearest detection, null if there was none.
 * @return False once the track is lost.
 */
bool update_track(RadarTrack& track, const RadarDetection* detection) {
    if (detection == nullptr) {
        track.misses = static_cast<std::uint8_t>(track.misses + 1U);
    } else {
        const std::uint64_t sum = (static_cast<std::uint64_t>(track.range_mm) * 3U) + detection->range_mm;
        track.range_mm = static_cast<std::uint32_t>(sum / 4U);
        track.closing_mm_s = detection->closing_mm_s;
        track.misses = 0U;
        if (track.hits < kConfirmHits) {
            track.hits = static_cast<std::uint8_t>(track.hits + 1U);
        }
    }
    return track.misses < kDropMisses;
}

/**
 * @brief Find the confirmed track that is nearest.
 * @param tracks All tracks.
 * @param count Number of tracks.
 * @return Index of the track, count if none is confirmed.
 */
std::size_t nearest_track(const RadarTrack* tracks, std::size_t count) {
    std::size_t nearest = count;

    if (tracks != nullptr) {
        for (std::size_t i = 0U; i < count; ++i) {
            const bool confirmed = (tracks[i].hits >= kConfirmHits);
            if (confirmed && ((nearest == count) || (tracks[i].range_mm < tracks[nearest].range_mm))) {
                nearest = i;
            }
        }
    }
    return nearest;
}

}  // namespace carla_bridge
