//! The world around pgring in tests.
