import sys; sys.path.insert(0,"lab")
from harness.laboratory import *
lab=Lab(); a,b=lab.a,lab.b
print(a.onemirror("list").stdout)
t=time.time()
m=lab.vm_with_three_disks("web%d" % int(time.time())); print("running", time.time()-t, m.images)
print(m.primaries())
m.wait_mirrored(); print("mirrored", time.time()-t)
for i in m.images.values(): print(i,a.token(i),b.token(i))
print(a.onemirror("list").stdout)
print(a.onemirror("show",m.home).stdout)
print(a.onemirror("plan",m.home).stdout)
