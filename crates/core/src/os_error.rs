//! Classification of the errors that an operating system returns for files and folders: retry, or final.
//!
//! One table for the spool, the file sink and the dead letters, so that the same error has the same consequence everywhere.

use std::io;

/// `ENFILE` and `EMFILE`, for which the standard library has no kind. The same numbers on Linux, macOS and the BSDs.
const TOO_MANY_FILES: [i32; 2] = [23, 24];
/// `ENOBUFS` and `ENOLCK`, for which the standard library has no kind either.
#[cfg(target_os = "linux")]
const NO_BUFFERS_OR_LOCKS: [i32; 2] = [105, 37];
#[cfg(not(target_os = "linux"))]
const NO_BUFFERS_OR_LOCKS: [i32; 2] = [55, 77];

/// What an operating-system error means for the operation that it ended.
///
/// A failed sync is final with every error, because the system may have marked pages as clean that it could not write. The
/// caller has to ensure that, because an error does not contain the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The file system or a quota is full. Retry; succeeds after space is freed.
    NoSpace,
    /// The process or the system lacks a resource for the moment (open files, memory, locks), or the call was interrupted.
    /// Retry; the content of the disk is intact.
    Temporary,
    /// A retry does not help, or is not safe: a failing device, a read-only file system, missing files or permissions.
    Final,
}

impl ErrorClass {
    /// Classifies an error.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::NoSpace,
            // EINTR, EAGAIN, ENOMEM, EBUSY, EDEADLK, and ETIMEDOUT of a network file system.
            Kind::Interrupted
            | Kind::WouldBlock
            | Kind::OutOfMemory
            | Kind::ResourceBusy
            | Kind::Deadlock
            | Kind::TimedOut => Self::Temporary,
            _ => match error.raw_os_error() {
                Some(code) if TOO_MANY_FILES.contains(&code) || NO_BUFFERS_OR_LOCKS.contains(&code) => {
                    Self::Temporary
                }
                _ => Self::Final,
            },
        }
    }

    /// Returns whether the operation may succeed when it is retried later.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::NoSpace | Self::Temporary)
    }
}

/// Returns whether an error means that the file system does not support the operation: `EINVAL`, `EOPNOTSUPP` or `ENOSYS`. Some
/// network and FUSE file systems return such an error for the sync of a folder.
pub fn is_unsupported(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, Unsupported};
    matches!(error.kind(), InvalidInput | Unsupported)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Linux error numbers, from `errno.h`.
    const TABLE: [(&str, i32, ErrorClass); 25] = [
        ("ENOSPC", 28, ErrorClass::NoSpace),
        ("EDQUOT", 122, ErrorClass::NoSpace),
        ("EINTR", 4, ErrorClass::Temporary),
        ("EAGAIN", 11, ErrorClass::Temporary),
        ("ENOMEM", 12, ErrorClass::Temporary),
        ("EBUSY", 16, ErrorClass::Temporary),
        ("ENFILE", 23, ErrorClass::Temporary),
        ("EMFILE", 24, ErrorClass::Temporary),
        ("EDEADLK", 35, ErrorClass::Temporary),
        ("ENOLCK", 37, ErrorClass::Temporary),
        ("ENOBUFS", 105, ErrorClass::Temporary),
        ("ETIMEDOUT", 110, ErrorClass::Temporary),
        ("EPERM", 1, ErrorClass::Final),
        ("ENOENT", 2, ErrorClass::Final),
        ("EIO", 5, ErrorClass::Final),
        ("ENXIO", 6, ErrorClass::Final),
        ("EBADF", 9, ErrorClass::Final),
        ("EACCES", 13, ErrorClass::Final),
        ("ENODEV", 19, ErrorClass::Final),
        ("ENOTDIR", 20, ErrorClass::Final),
        ("EISDIR", 21, ErrorClass::Final),
        ("EINVAL", 22, ErrorClass::Final),
        ("EFBIG", 27, ErrorClass::Final),
        ("EROFS", 30, ErrorClass::Final),
        ("EUCLEAN", 117, ErrorClass::Final),
    ];

    #[test]
    fn each_error_number_has_its_class() {
        for (name, code, class) in TABLE {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(ErrorClass::of(&error), class, "{name}");
            assert_eq!(class.is_retryable(), class != ErrorClass::Final, "{name}");
        }
    }

    #[test]
    fn error_without_number_is_classified_by_its_kind() {
        assert_eq!(ErrorClass::of(&io::Error::other("anything")), ErrorClass::Final);
        assert_eq!(
            ErrorClass::of(&io::ErrorKind::StorageFull.into()),
            ErrorClass::NoSpace
        );
    }

    #[test]
    fn unsupported_operation_is_detected() {
        for (code, is_unsupported_code) in [(22, true), (38, true), (95, true), (5, false), (28, false)] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(is_unsupported(&error), is_unsupported_code, "{code}");
        }
    }
}
