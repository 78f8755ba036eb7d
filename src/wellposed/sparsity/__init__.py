"""What is zero, and what is left without it? The path of strengths, and the features that it keeps."""
