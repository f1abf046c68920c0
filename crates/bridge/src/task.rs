//! Joins tasks: returns their results, and propagates their panics.

use tokio::task::JoinError;

/// Returns the result of a task, and propagates a panic.
pub(crate) fn joined<T>(result: Result<T, JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("unexpected cancellation of a task: {error}"),
        },
    }
}
