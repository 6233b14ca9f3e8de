/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sensor_frame.h
 * @brief What every simulated sensor puts in front of its data.
 */
#ifndef SENSOR_FRAME_H
#define SENSOR_FRAME_H

#include <stdint.h>

#define SENSOR_CAMERA 1U
#define SENSOR_LIDAR 2U
#define SENSOR_RADAR 3U
#define SENSOR_IMU 4U
#define SENSOR_GNSS 5U

/** Header of one measurement. */
typedef struct {
    uint8_t sensor_type;
    uint8_t sensor_index;
    uint32_t frame_number;   /**< Tick of the simulator. */
    uint64_t timestamp_us;   /**< Simulated time. */
} sensor_frame_t;

#endif
