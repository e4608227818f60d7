//! What the programs of the chat service share: the command lines of `chat` (for people) and `chatctl` (for
//! operators). The programs themselves, one file each, are in `src/bin`.

pub mod bench;
pub mod cli;
pub mod daemon;
pub mod demo;
