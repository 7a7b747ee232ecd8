"""Rules of the tasks themselves, for grading, validating and drawing alike. Imports only `reward_errors`."""
