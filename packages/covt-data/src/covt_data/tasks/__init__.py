"""Generated tasks, each with its pictures, its helper images and its simulator."""
