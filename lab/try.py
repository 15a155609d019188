import sys; sys.path.insert(0,"lab")
from harness.laboratory import *
lab=Lab()
if sys.argv[1]=="down": main_down()
if sys.argv[1]=="up":
    t=time.time(); lab.up(); print("up", time.time()-t)
if sys.argv[1]=="install":
    for s in lab.sites: s.install(); s.configure()
if sys.argv[1]=="story":
    from harness import story; story.tell(lab)
