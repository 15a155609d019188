//! `onemirror.conf`: where it is found and what it may say.
