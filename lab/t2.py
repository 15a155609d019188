import sys; sys.path.insert(0,"lab")
from harness.laboratory import *
lab=Lab(); a,b=lab.a,lab.b
m=Machine(lab,"web",0)
T=time.time()
def say(*x): print("%6.1f"%(time.time()-T),*x,flush=True)
m.register_on_b(); say("registered")
a.action("poweroff",0); a.wait_vm(0,"POWEROFF"); say("A off")
vb=m.start_on_b(); s=b.settle(vb); say("B", s, b.vm_error(vb)); 
print(b.vm_log(vb)[-1500:])
print(m.primaries())
if s=="RUNNING":
    b.wait_records(vb)
    b.action("terminate",vb); s=b.settle(vb) if False else b.wait_vm(vb,"DONE","EPILOG_FAILURE"); say("B",s)
    a.wait_vm(0,"RUNNING",timeout=100); say("A running")
    a.wait_records(0)
    a.action("poweroff",0); a.wait_vm(0,"POWEROFF");
    for v in m.verdicts(a): print(v)
