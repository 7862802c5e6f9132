"""Answers doorbells: claims a run, keeps its trainer alive and brings home what it made."""
