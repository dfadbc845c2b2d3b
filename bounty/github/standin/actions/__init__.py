"""What people, the App and GitHub itself do: each changes the memory and sends its events."""
