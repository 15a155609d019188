"""The lab as Python sees it: two sites, each a real Ceph cluster and a stand-in front-end with onemirror installed."""
