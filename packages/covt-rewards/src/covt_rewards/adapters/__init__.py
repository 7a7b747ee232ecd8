"""The rewards inside other trainers: TRL (`trl`), veRL (`verl`), EasyR1 (`easyr1`). None of them is imported here."""
