"""What the lab's stock datastore actions have in common: the document that oned sends.

OpenNebula: src/image/ImageManagerActions.cc (format_message) makes it, src/datastore_mad/one_datastore.rb
(do_image_action) gives it to `datastore/DS_MAD/ACTION ID` on standard input, in Base64.
"""
import base64
import sys
import xml.etree.ElementTree


def attributes(element):
    """Name → text of an element's children that hold no others."""
    return {child.tag: child.text or "" for child in element or [] if not len(child)}


class Action:
    """The arguments of a call: the image, its datastore, and their templates."""

    def __init__(self):
        self.id = sys.argv[1]
        document = xml.etree.ElementTree.fromstring(base64.b64decode(sys.stdin.read()))
        self.image = attributes(document.find("IMAGE"))
        self.image_template = attributes(document.find("IMAGE/TEMPLATE"))
        self.datastore = attributes(document.find("DATASTORE/TEMPLATE"))
        self.base_path = document.findtext("DATASTORE/BASE_PATH")
