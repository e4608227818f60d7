//! An interpreter for scripts that drive the production state machine step by step. docs/scripts.md has the language.

pub mod commands;
pub mod disk;
pub mod file;
pub mod network;
pub mod output;
pub mod turn;
pub mod words;
pub mod world;
