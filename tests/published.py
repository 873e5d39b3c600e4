"""A record of every format that is read, as its publisher writes it."""

from __future__ import annotations

from typing import Any

PAIR = {"correct": "no edema", "foil": "mild edema", "id": "1", "image": "film.png", "negation": "correct"}
CLAIM = {"id": "1", "group": "p", "image": "film.png", "claims": ["a", "b"], "label": 0, "attribute": "side"}
CAPTION = {"id": "1", "group": "p", "image": "film.png", "caption": "no edema", "states": {"edema": "absent"}}
MCQ = {
    "subject_id": 1,
    "study_id": 2,
    "question": "Which?",
    "correct_answer": "A",
    "image": "film.png",
    "group": "p",
    **{f"binary_raw_choice_{i}": {"edema": i % 2, "x": i // 3} for i in range(1, 5)},
    **{f"{kind}_mcq_choice_{i}": f"{kind} {i}" for kind in ("negation", "affirmative") for i in range(1, 5)},
}
CONDITIONS = (
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT = f"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,{CONDITIONS}\ntrain/patient1/study1/a.jpg,F,68,Frontal,AP,"
TAIX = (
    "UID,PatientID,Split,HeartSize,PulmonaryCongestion,PleuralEffusion_Right,PleuralEffusion_Left,"
    "PulmonaryOpacities_Right,PulmonaryOpacities_Left,Atelectasis_Right,Atelectasis_Left\nabc,p1,val,3,1,0,2,,,,\n"
)
SUGARCREPE = {"filename": "1.jpg", "caption": "a red car", "negative_caption": "a blue car"}
VALSE = {
    "image_file": "v7w_1.jpg",
    "linguistic_phenomena": "existence",
    "caption": "There are no people.",
    "foil": "There are people.",
    "provenance_of_foils": "zero_to_something",
    "mturk": {"foil": 0, "caption": 3, "other": 0},
}
WINOGROUND = {
    "id": 0,
    "image_0": "ex_0_img_0",
    "image_1": "ex_0_img_1",
    "caption_0": "an old person kisses a young person",
    "caption_1": "a young person kisses an old person",
    "tag": "Adjective-Age",
    "collapsed_tag": "Object",
}
CAD_ENTITY = {"entity_name": "x", "location": ["left"], "level": ["small"], "probability_score": 3}
COCO = {"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [{"image_id": 9, "id": 1, "caption": "A dog."}]}
ARO = {
    "image_id": "2",
    "image_path": "2.jpg",
    "true_caption": "the red cat and the big dog",
    "false_caption": "the big cat and the red dog",
    "attributes": ["red", "big"],
    "bbox_x": 2,
    "bbox_y": 0,
    "bbox_w": 5,
    "bbox_h": 7,
}
KARPATHY = {
    "images": [
        {
            "filepath": "val2014",
            "sentids": [770337],
            "filename": "COCO_val2014_000000391895.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [
                {"tokens": ["a", "man"], "raw": "A man with a red helmet.", "imgid": 0, "sentid": 770337},
                {"tokens": ["a", "moped"], "raw": "A moped. ", "imgid": 0, "sentid": 771687},
            ],
            "cocoid": 391895,
        }
    ],
    "dataset": "coco",
}
CC_NEG = {"image_paths": ["a/1.jpg"], "annotations": [{"json": {"caption": "a"}, "sop_data": {"negative-prompt": "b"}}]}

PUBLISHED: dict[str, tuple[str, Any]] = {
    "pairs": ("pairs.jsonl", [PAIR]),
    "claims": ("claims.jsonl", [CLAIM]),
    "captions": ("captions.jsonl", [CAPTION]),
    "retrieval": ("retrieval.jsonl", [{"id": "1", "group": "p", "image": "film.png", "captions": ["a", "b"]}]),
    "facts": ("facts.jsonl", [{"id": "1", "group": "p", "image": "film.png", "facts": {"edema": {"state": "absent"}}}]),
    "mednega": ("mednega.json", [{key: value for key, value in MCQ.items() if key not in ("image", "group")}]),
    "negbench-mcq": (
        "coco.csv",
        'image_path,correct_answer,caption_0,caption_1,correct_answer_template\nval/1.jpg,0,"a, no cat",a cat,hybrid\n',
    ),
    "negbench-retrieval": (
        "retrieval.csv",
        "positive_objects,negative_objects,filepath,image_id,captions\n"
        "\"['dog']\",\"['cat']\",val/1.jpg,3.0,\"['a dog', 'no cat']\"\n",
    ),
    "valse": ("existence.json", {"a": VALSE}),
    "sugarcrepe": ("add_att.json", {"0": SUGARCREPE}),
    "sugarcrepe++": ("swap_obj.json", [{**SUGARCREPE, "id": 3, "caption2": "the car is red"}]),
    "aro": ("attribution.json", [ARO]),
    "winoground": ("examples.jsonl", [WINOGROUND]),
    "cc-neg": ("ccneg.pt", CC_NEG),
    "negclip": ("neg.tsv", 'title\tfilepath\tneg_caption\tneg_image\na dog\t1.jpg\t"[\'a cat\']"\t"[4, 7]"\n'),
    "coco": ("captions_val2017.json", COCO),
    "karpathy": ("dataset_coco.json", KARPATHY),
    "karpathy-list": ("coco_karpathy_test.json", [{"image": "val2014/1.jpg", "caption": ["A dog.", "One dog. "]}]),
    "chexpert": ("train.csv", CHEXPERT + "1.0,,,,,,,,,,,1.0,0.0,-1.0\n"),
    "mimic-cxr": ("mimic.csv.gz", f"subject_id,study_id,{CONDITIONS}\n10000032,50414267,1.0{',' * 12}\n"),
    "cad-chest": ("cad_disease.json", [{"study_id": 1, "subject_id": 2, "entity": {"edema": CAD_ENTITY}}]),
    "taix-ray": ("annotation.csv", TAIX),
    "open-i": ("reports.csv", "uid,MeSH,Problems\n1,Pleural Effusion/bilateral/small;Cardiomegaly/mild,x\n"),
}
"""By format: a file's name and what it holds, as published."""
