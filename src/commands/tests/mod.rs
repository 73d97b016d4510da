//! Tests of the command line as a whole.

mod precedence;
mod readme_table;
