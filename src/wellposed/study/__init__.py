"""What was tried, what was proven, how is it kept and resumed?"""
