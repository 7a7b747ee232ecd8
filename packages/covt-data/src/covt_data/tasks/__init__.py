"""Generated tasks, each with its images, its helper images and its simulator."""
