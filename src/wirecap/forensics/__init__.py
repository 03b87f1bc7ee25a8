"""Why packets were lost: what is recorded while a capture runs, and what is made of it afterwards (docs/drops.md)."""
