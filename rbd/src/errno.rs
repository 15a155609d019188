//! The error numbers that mean something to us, as Ceph's libraries return them and as `rbd` exits with them.

use rustix::io::Errno;

/// Not permitted.
pub const EPERM: i32 = Errno::PERM.raw_os_error();
/// There is no such thing.
pub const ENOENT: i32 = Errno::NOENT.raw_os_error();
/// Something broke on the way.
pub const EIO: i32 = Errno::IO.raw_os_error();
/// Permission denied.
pub const EACCES: i32 = Errno::ACCESS.raw_os_error();
/// Somebody else has it.
pub const EBUSY: i32 = Errno::BUSY.raw_os_error();
/// It is there already.
pub const EEXIST: i32 = Errno::EXIST.raw_os_error();
/// What was asked makes no sense.
pub const EINVAL: i32 = Errno::INVAL.raw_os_error();
/// Only to be read.
pub const EROFS: i32 = Errno::ROFS.raw_os_error();
/// The answer has no room.
pub const ERANGE: i32 = Errno::RANGE.raw_os_error();
/// An answer that makes no sense.
pub const EBADMSG: i32 = Errno::BADMSG.raw_os_error();
/// Of a client that was cut off from the cluster.
pub const ESHUTDOWN: i32 = Errno::SHUTDOWN.raw_os_error();
