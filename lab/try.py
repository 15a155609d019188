import sys; sys.path.insert(0,"lab")
from harness.laboratory import *
lab=Lab()
if sys.argv[1]=="down": main_down()
if sys.argv[1]=="up":
    t=time.time(); lab.up(); print("up", time.time()-t)
